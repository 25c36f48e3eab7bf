"""The store: finished cells, and one copy of each tensor whatever cell it came from.

```
store/cells/KEY/cell.json      the record, written last: a folder without it is not a cell
store/cells/KEY/log.txt        what the job printed; its beginning and its end where that is more than 128 MiB
store/cells/KEY/index/*.json   the index's own small files
store/cells/KEY/model/*        those of the checkpoint that a training began with
store/attempts/KEY/TIME-…/     the same files of a later run that does not replace the cell (`says_less`); the last few
store/objects/DI/DIGEST.safetensors   one tensor named `tensor`; the name is its digest
store/.lock                    shared by writers; held alone by whoever takes stock (`harness.store.audit`)
store/.placing.lock            held while a cell takes its place
```

Whatever is written is written beside its place (`.new-…`), synced and renamed: objects one by one, then the cell's
folder as a whole. A record carries the digest of itself (`seal`) and of the files beside it, so that damage is found.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from harness.artifacts.kinds import kind_named
from harness.errors import UnreadableTensor
from harness.files import copy, exchange, read_json, sync_file, write_json
from harness.flock import hold
from harness.store.cell import LEVELS, OUTCOMES, SCHEMA, Artifact, Cell, Listed, nans
from harness.store.objects import Objects
from harness.store.records import cut_for_list, is_listed, is_record
from harness.store.spec import CellSpec, digest_of
from harness.words import name_key

RECORD = "cell.json"
ATTEMPTS_KEPT = 5
"""Runs that are kept beside a cell which they do not replace: the newest."""
ATTEMPT = re.compile(r"[0-9-]{10}T[0-9]{6}-[0-9a-z_]+")
"""The folder of one of them: when it ended, and letters that no other has."""
PLACING = ".placing.lock"
MODEL = "model"
_TOLD = 3  # differences that a name holds
_REMOVED = 16  # repeats of a cell in a row that may have been removed before one that is there
KEY_LENGTH = 4
"""Characters of a key that are enough to name a cell, where no other key starts with them."""
KEY_SHOWN = 12
"""Characters of a key, or of a group's digest, that a sentence shows."""


def keys_of(cells: Sequence[Cell], before: str = "") -> list[str]:
    """A line for each of some cells between which a user has to choose: `before`, the start of a key, a name."""
    return [f"{before}{cell.key[:KEY_SHOWN]}   {name}" for cell, name in zip(cells, tell_apart(cells), strict=True)]


def tell_apart(cells: Sequence[Cell]) -> list[str]:
    """A name for each cell: its label, and where several have the same one, what differs between them.

    A cell that is there twice has the same name twice; no two different ones have.
    """
    names = [cell.label for cell in cells]
    places: dict[str, list[int]] = {}
    for place, label in enumerate(names):
        places.setdefault(label, []).append(place)
    for label, alike in places.items():
        if len(alike) == 1:
            continue
        facts = [dict(_facts(cells[place])) for place in alike]
        differing = [f for f in dict.fromkeys(f for one in facts for f in one) if len({o.get(f) for o in facts}) > 1]
        # The digest of a lock says that packages differ; where it is known which, they say it better.
        plain = [field for field in differing if field != "lock"]
        if any(field in cells[place].spec.settings for field in plain for place in alike):
            # Threads, say, are a setting and five variables.
            plain = [field for field in plain if not field.isupper()]
        whole = plain if len({tuple(one.get(f) for f in plain) for one in facts}) == len(alike) else differing
        for place, one in zip(alike, facts, strict=True):
            words = [f"{name} {one.get(name, 'none')}" for name in whole]
            more = [f"and {len(words) - _TOLD} more differences"] if len(words) > _TOLD else []
            if words:
                names[place] = f"{label} ({', '.join(words[:_TOLD] + more)})"
    if len(set(names)) < len({cell.key for cell in cells}):
        names = [f"{name} [{cell.key[:KEY_SHOWN]}]" for name, cell in zip(names, cells, strict=True)]
    return names


def _facts(cell: Cell) -> Iterator[tuple[str, str]]:
    """What may tell a cell from another of its label: field to its value, both as words."""
    spec = cell.spec
    yield "collection", f"{spec.collection.name} of {spec.collection.passages:,} passages"
    yield "checkpoint", spec.checkpoint.name
    said = {**spec.settings, "nranks": spec.ranks, **spec.environment}
    yield from ((str(name), str(value)) for name, value in said.items())
    yield "device", spec.device
    packages = (cell.details.get("provenance") or {}).get("packages")
    if isinstance(packages, dict):
        yield from ((str(name), str(version)) for name, version in packages.items())
    yield "lock", spec.lock[:8]
    yield "revision", str(spec.revision)
    yield "collection digest", spec.collection.digest[:8]
    yield "checkpoint digest", spec.checkpoint.digest[:8]
    yield "swapped", ",".join(f"{name}={digest[:8]}" for name, digest in sorted(spec.swap.items()))


def level(cell: Listed) -> int:
    """How much of the pipeline's inside a cell keeps, as a number; -1 for a record that says something unknown."""
    return LEVELS.index(cell.capture) if cell.capture in LEVELS else -1


def says_less(cell: Cell, there: Cell | None) -> bool:
    """Whether `cell` must not take the place of `there`, a cell of the same key that ended well.

    It must not where it ended badly itself, nor where it kept less of the pipeline's inside: its tensors would be lost.
    """
    return there is not None and there.outcome == "ok" and (cell.outcome != "ok" or level(cell) < level(there))


class Store(Objects):
    """Cells below `root`, and the objects that they name; making one touches nothing on disk."""

    def cell_folder(self, key: str) -> Path:
        """Where a cell is, or would be."""
        return self.root / "cells" / key

    def attempts_folder(self, key: str) -> Path:
        """Where runs are kept beside a cell, one folder each."""
        return self.root / "attempts" / key

    def attempt_folders(self, key: str) -> list[Path]:
        """The runs that were kept beside a cell, oldest first."""
        folder = self.attempts_folder(key)
        found = (path for path in folder.iterdir() if ATTEMPT.fullmatch(path.name)) if folder.is_dir() else ()
        return sorted(found, key=_written)

    @property
    def lock_path(self) -> Path:
        """Shared by those who write objects that no record names yet."""
        return self.root / ".lock"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While objects and the record that names them are written: nobody takes the objects for orphans meanwhile."""
        with hold(self.lock_path, shared=True):
            yield

    def get(self, key: str) -> Cell | None:
        """Return a cell; None if it is not there, or its record cannot be read or was damaged."""
        return self.read(self.cell_folder(key), key)

    def attempts(self, key: str) -> list[Cell]:
        """Runs of a cell that did not replace it, oldest first: it ended well, and they did not or kept less."""
        return [cell for folder in self.attempt_folders(key) if (cell := self.read(folder, key))]

    def latest(self, key: str) -> Cell | None:
        """How the last run of a cell ended, whether it is the cell or was kept beside it."""
        folders = sorted([self.cell_folder(key), *self.attempt_folders(key)], key=_written)
        return next((cell for folder in reversed(folders) if (cell := self.read(folder, key))), None)

    def read(self, folder: Path, key: str) -> Cell | None:
        """The cell of `key` whose record is in `folder`; see `get`."""
        found = self.whole(folder, key)
        return found[0] if found else None

    def whole(self, folder: Path, key: str) -> tuple[Cell, dict[str, str]] | None:
        """A cell as `read` gives it, and the digests of the files beside its record, by relative name.

        Early records know of no files.
        """
        record = _record(folder / RECORD)
        if not is_record(record, key, SCHEMA, OUTCOMES):
            return None
        seal = record.pop("seal", None)
        # Early records have no seal.
        if seal is not None and seal != digest_of(record):
            return None
        files = record.pop("files", {})
        artifacts = {
            name: Artifact(
                one["digest"], one["dtype"], tuple(one["shape"]), one["kind"], one["stored"], nans(one.get("nans"))
            )
            for name, one in record.pop("artifacts", {}).items()
        }
        try:
            # JSON objects are written with sorted keys; artifacts have an order of their own.
            spec = CellSpec.of(record.pop("spec"))
            order = kind_named(spec.job).in_order(artifacts)
            cell = Cell(**record, spec=spec, artifacts={name: artifacts[name] for name in order})
        except TypeError:
            return None
        return cell, {str(name): str(one) for name, one in files.items()} if isinstance(files, dict) else {}

    def accepts(self, cell: Cell) -> bool:
        """Whether `get` would take this cell's record for one."""
        return is_record(json.loads(json.dumps(cell.to_json())), cell.key, SCHEMA, OUTCOMES)

    def keys(self) -> list[str]:
        """Keys of what may be cells: names of folders."""
        folder = self.root / "cells"
        found = folder.iterdir() if folder.is_dir() else iter(())
        return sorted(path.name for path in found if not path.name.startswith("."))

    def cells(self) -> list[Cell]:
        """All cells, by version and repeat."""
        return _sorted(self.get(key) for key in self.keys())

    def listed(self) -> list[Listed]:
        """All cells as a list has them, in the same order: what it takes to choose some, which `get` then returns.

        A record is read here and not held against its seal, which takes longer than reading it: one that was damaged
        may be listed, and is no cell for `get`.
        """
        cells = self.root / "cells"
        return _sorted(self._listed(cells.joinpath(key, RECORD), key) for key in self.keys())

    def _listed(self, path: Path, key: str) -> Listed | None:
        record = _record(path, cut_for_list)
        if not is_listed(record, key, SCHEMA, OUTCOMES):
            return None
        try:
            return Listed(key, record["group"], CellSpec.of(record["spec"]), record["outcome"], record["capture"])
        except (KeyError, TypeError):
            return None

    def named(self, start: str) -> list[Cell]:
        """The cells whose key starts with an item of a command line; none where that is too short to name one."""
        keys = [key for key in self.keys() if key.startswith(start)] if len(start) >= KEY_LENGTH else []
        return _sorted(map(self.get, keys))

    def repeats(self, cell: Listed) -> list[Cell]:
        """Other runs of exactly this cell, however they ended, in the order of their numbers.

        They are looked up by their keys, and no other record is read. Whoever runs a cell again numbers the runs
        without gaps; a few may have been removed since.
        """
        found, number, last = [], 0, 0
        while number <= last + _REMOVED:
            key = cell.spec.again(number).key
            if self.cell_folder(key).is_dir():
                last = number
                if key != cell.key and (again := self.get(key)):
                    found.append(again)
            number += 1
        return found

    def put(self, cell: Cell, *, log: Path | None = None, index: Path | None = None, model: Path | None = None) -> Cell:
        """Keep how a run of a cell ended; a cell that ended well is replaced only by one that did and says as much.

        Any other is kept beside it, for `attempts`. Whoever reads sees the old cell or the new one, whole, or none
        while they change places.

        Args:
            cell: its objects are already stored; `finished` is filled in.
            log: what the job printed.
            index: the ColBERT index folder whose JSON files are kept.
            model: the folder of a checkpoint's small files, which are kept.

        Returns:
            The cell as it was given, also where another one stays in its place.
        """
        cell = replace(cell, finished=datetime.now(UTC).isoformat(timespec="seconds"))
        self.write(cell, log=log, index=index, model=model)
        return cell

    def write(
        self, cell: Cell, *, log: Path | None = None, index: Path | None = None, model: Path | None = None
    ) -> None:
        """Write a cell as it is; see `put`."""
        cells = self.root / "cells"
        cells.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".new-", dir=cells))
        try:
            making.chmod(0o755)
            files = {"log.txt": log} if log else {}
            files |= {f"index/{path.name}": path for path in (sorted(index.glob("*.json")) if index else ())}
            files |= {f"{MODEL}/{path.name}": path for path in (sorted(model.glob("*")) if model else ())}
            folders = [making / name for name in ("index", *([MODEL] if model and model.is_dir() else []))]
            for folder in folders:
                folder.mkdir()
            # A link in a folder from elsewhere would bring in whatever it points to.
            whole = {name: path for name, path in files.items() if path.is_file() and not path.is_symlink()}
            digests = {name: copy(path, making / name) for name, path in whole.items()}
            record = json.loads(json.dumps({**cell.to_json(), "files": digests}))
            record["seal"] = digest_of(record)
            write_json(making / RECORD, record, indent=1)
            for folder in (*folders, making):
                sync_file(folder)
            # Two writers of one cell: what is there must not change between the look and the placing.
            with hold(self.root / PLACING):
                if says_less(cell, self.get(cell.key)):
                    self._place_beside(making, cell)
                else:
                    self._place(making, self.cell_folder(cell.key))
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _place_beside(self, making: Path, cell: Cell) -> None:
        """Put a new folder beside those of earlier attempts, of which the oldest goes."""
        folder = self.attempts_folder(cell.key)
        folder.mkdir(parents=True, exist_ok=True)
        making.rename(folder / f"{cell.finished[:19].replace(':', '')}-{making.name.removeprefix('.new-')}")
        sync_file(folder)
        sync_file(folder.parent)
        for old in self.attempt_folders(cell.key)[:-ATTEMPTS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _place(self, making: Path, folder: Path) -> None:
        """Put a new folder in the place of an old one; on most filesystems at once, for readers as for a power cut."""
        while True:
            try:
                making.rename(folder)
                break
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            if exchange(making, folder):
                # What was there before is in `making` now, which the caller deletes.
                break
            # A filesystem that cannot exchange, such as NFS: for a moment there is no cell.
            with suppress(FileNotFoundError):
                folder.rename(making.with_name(f".old-{making.name.removeprefix('.new-')}-{secrets.token_hex(4)}"))
        sync_file(folder.parent)
        for old in folder.parent.glob(f".old-{making.name.removeprefix('.new-')}-*"):
            shutil.rmtree(old, ignore_errors=True)


def _record(path: Path, cut: Callable[[bytes], bytes] = bytes) -> object:
    """What a record says, or what is left of it; None where it cannot be read."""
    try:
        return read_json(path, lambda raw: json.loads(cut(raw)))
    except UnreadableTensor:
        return None


_One = TypeVar("_One", bound=Listed)


def _sorted(cells: Iterable[_One | None]) -> list[_One]:
    """Cells by version and repeat."""
    return sorted((cell for cell in cells if cell), key=lambda c: (name_key(c.version), c.label, c.key))


def _written(folder: Path) -> tuple[int, str]:
    """When the record in a folder was written; the name decides between two of one moment."""
    with suppress(OSError):
        return (folder / RECORD).stat().st_mtime_ns, folder.name
    return 0, folder.name
