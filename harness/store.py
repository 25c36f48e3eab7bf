"""The store: finished cells, and one copy of each tensor whatever cell it came from.

```
store/cells/KEY/cell.json      the record, written last: a folder without it is not a cell
store/cells/KEY/log.txt        what the job printed; its beginning and its end where that is more than 128 MiB
store/cells/KEY/index/*.json   the index's own small files
store/attempts/KEY/TIME-…/     the same files of a later run that does not replace the cell (`says_less`); the last few
store/objects/DI/DIGEST.safetensors   one tensor named `tensor`; the name is its digest
store/.lock                    shared by writers; held alone by whoever takes stock (`harness.audit`)
store/.placing.lock            held while a cell takes its place
```

Whatever is written is written beside its place (`.new-…`), synced and renamed: objects one by one, then the cell's
folder as a whole. A record carries the digest of itself (`seal`) and of the files beside it, so that damage is found.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from harness.flock import Held, hold
from harness.pipeline import in_order, is_artifact, is_captured, is_final
from harness.records import is_record
from harness.sources import read_json, too_deep
from harness.tensors import Tensor, UnreadableTensor, read_pt, read_safetensors, write_safetensors

SCHEMA = 1
OUTCOMES = (
    "ok",
    "unsupported",
    "resolve_failed",
    "install_failed",
    "import_failed",
    "out_of_memory",
    "timeout",
    "crashed",
    "lost",
    "invalid_output",
)
LEVELS = ("final", "digests", "full")
"""How much of the inside of the pipeline a cell keeps, from least to most."""
ATTEMPTS_KEPT = 5
"""Runs that are kept beside a cell which they do not replace: the newest."""
ATTEMPT = re.compile(r"[0-9-]{10}T[0-9]{6}-[0-9a-z_]+")
"""The folder of one of them: when it ended, and letters that no other has."""
TENSOR = "tensor"
PLACING = ".placing.lock"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class Artifact:
    """What a cell knows of one artifact.

    Attributes:
        digest: blake3 of dtype, shape and bytes.
        dtype: torch's name for it, without `torch.`.
        shape: sizes of the dimensions.
        kind: `final` (in the index), `intermediate` or `value` (not a tensor in colbert-ai: a count, a list).
        stored: whether the tensor itself is in the store, or only its digest.
        nans: how many elements are NaN, which equal nothing, themselves included; None in records that did not count.
    """

    digest: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    stored: bool
    nans: int | None = None


@dataclass(frozen=True)
class Cell:
    """A finished cell, well or badly.

    Attributes:
        key: see `cells.CellSpec`; `group` too.
        spec: the specification, as JSON.
        outcome: one of `OUTCOMES`.
        reason: why it is not `ok`; one sentence.
        phase: the phase in which it ended.
        capture: `final`, `digests` or `full`.
        artifacts: by name; empty unless the outcome is `ok`.
        seconds: wall seconds per phase.
        details: provenance, peak memory, exit code, the end of the log and what else was observed.
        finished: UTC time, ISO 8601.
    """

    key: str
    group: str
    spec: dict[str, Any]
    outcome: str
    reason: str = ""
    phase: str = ""
    capture: str = "final"
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    finished: str = ""
    schema: int = SCHEMA

    @property
    def not_captured(self) -> dict[str, str]:
        """Why artifacts that the job made could not be recorded; its details have the facts (`provenance.cpu`) too."""
        found: dict[str, str] = self.details.get("not_captured", {})
        return {name: reason for name, reason in found.items() if is_artifact(name)}

    def unrecorded(self, name: str) -> str:
        """Why nothing is known of an artifact that the job makes; empty where it is known, or was never made."""
        if name in self.artifacts:
            return ""
        not_kept = self.capture == LEVELS[0] and is_captured(name) and name != "doclens"
        words = "only the index was kept; index with `--capture digests` or more for this artifact" if not_kept else ""
        return self.not_captured.get(name, words)

    @property
    def version(self) -> str:
        """The PyTorch release."""
        return str(self.spec["version"])

    @property
    def repeat(self) -> int:
        """0, or the number of the repeat."""
        return int(self.spec["repeat"])

    @property
    def label(self) -> str:
        """See `label_of`."""
        return label_of(self.spec)


def label_of(spec: Mapping[str, Any]) -> str:
    """The version, with what is swapped, the repeat and the probe where there is one, such as `2.5.0#1`.

    Args:
        spec: a specification as JSON, of which a version and a repeat are enough.
    """
    swap = f"+{','.join(sorted(spec['swap']))}" if spec.get("swap") else ""
    repeat = f"#{spec['repeat']}" if spec.get("repeat") else ""
    probe = f" {spec.get('settings', {}).get('probe', '')}" if spec.get("job") == "probe" else ""
    return f"{spec['version']}{swap}{repeat}{probe}"


def tell_apart(cells: Sequence[Cell]) -> list[str]:
    """A name for each cell: its label, and where several have the same one, what differs between them.

    A cell that is there twice has the same name twice; no two different ones have.
    """
    names = [cell.label for cell in cells]
    for label in {name for name in names if names.count(name) > 1}:
        alike = [place for place, cell in enumerate(cells) if cell.label == label]
        facts = [dict(_facts(cells[place])) for place in alike]
        differing = [f for f in dict.fromkeys(f for one in facts for f in one) if len({o.get(f) for o in facts}) > 1]
        # The digest of a lock says that packages differ; where it is known which, they say it better.
        plain = [field for field in differing if field != "lock"]
        if any(field in cells[alike[0]].spec.get("settings", {}) for field in plain):
            # Threads, say, are a setting and five variables.
            plain = [field for field in plain if not field.isupper()]
        whole = plain if len({tuple(one.get(f) for f in plain) for one in facts}) == len(alike) else differing
        for place, one in zip(alike, facts, strict=True):
            words = [f"{name} {one.get(name, 'none')}" for name in whole]
            more = [f"and {len(words) - _TOLD} more differences"] if len(words) > _TOLD else []
            if words:
                names[place] = f"{label} ({', '.join(words[:_TOLD] + more)})"
    if len(set(names)) < len({cell.key for cell in cells}):
        names = [f"{name} [{cell.key[:12]}]" for name, cell in zip(names, cells, strict=True)]
    return names


_TOLD = 3
"""Differences that a name holds."""


def _facts(cell: Cell) -> Iterator[tuple[str, str]]:
    """What may tell a cell from another of its label: field to its value, both as words."""
    spec = cell.spec
    for part in ("collection", "checkpoint"):
        one = spec[part]
        size = f" of {one['passages']:,} passages" if "passages" in one else ""
        yield part, f"{one['name']}{size}"
    for part in ("settings", "environment"):
        yield from ((str(name), str(value)) for name, value in spec.get(part, {}).items())
    yield "device", spec["device"]
    packages = (cell.details.get("provenance") or {}).get("packages")
    if isinstance(packages, dict):
        yield from ((str(name), str(version)) for name, version in packages.items())
    yield "lock", str(spec.get("lock", ""))[:8]
    yield "revision", str(spec.get("revision", ""))
    for part in ("collection", "checkpoint"):
        yield f"{part} digest", str(spec[part]["digest"])[:8]
    yield "swapped", ",".join(f"{name}={digest[:8]}" for name, digest in sorted(spec.get("swap", {}).items()))


def level(cell: Cell) -> int:
    """How much of the pipeline's inside a cell keeps, as a number; -1 for a record that says something unknown."""
    return LEVELS.index(cell.capture) if cell.capture in LEVELS else -1


def says_less(cell: Cell, there: Cell | None) -> bool:
    """Whether `cell` must not take the place of `there`, a cell of the same key that ended well.

    It must not where it ended badly itself, nor where it kept less of the pipeline's inside: its tensors would be lost.
    """
    return there is not None and there.outcome == "ok" and (cell.outcome != "ok" or level(cell) < level(there))


class Store:
    """Cells and objects below `root`; making one touches nothing on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.verified: set[str] = set()
        """Digests of tensors whose bytes were compared with them."""

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

    def object_path(self, digest: str) -> Path:
        """Where a tensor is, or would be."""
        return self.root / "objects" / digest[:2] / f"{digest}.safetensors"

    @property
    def lock_path(self) -> Path:
        """Shared by those who write objects that no record names yet."""
        return self.root / ".lock"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While objects and the record that names them are written: nobody takes the objects for orphans meanwhile."""
        held = hold(self.lock_path, shared=True)
        assert held is not None
        with held:
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
        try:
            record = read_json(folder / "cell.json")
        except UnreadableTensor:
            return None
        if not is_record(record, key, SCHEMA, OUTCOMES):
            return None
        assert isinstance(record, dict)
        seal = record.pop("seal", None)
        # Early records have no seal.
        if seal is not None and seal != _seal(record):
            return None
        record.pop("files", None)
        artifacts = {
            name: Artifact(
                one["digest"], one["dtype"], tuple(one["shape"]), one["kind"], one["stored"], _nans(one.get("nans"))
            )
            for name, one in record.pop("artifacts", {}).items()
        }
        try:
            # JSON objects are written with sorted keys; artifacts have an order of their own.
            return Cell(**record, artifacts={name: artifacts[name] for name in in_order(artifacts)})
        except TypeError:
            return None

    def accepts(self, cell: Cell) -> bool:
        """Whether `get` would take this cell's record for one."""
        return is_record(json.loads(json.dumps(asdict(cell))), cell.key, SCHEMA, OUTCOMES)

    def keys(self) -> list[str]:
        """Keys of what may be cells: names of folders."""
        folder = self.root / "cells"
        found = folder.iterdir() if folder.is_dir() else iter(())
        return sorted(path.name for path in found if not path.name.startswith("."))

    def files(self, folder: Path) -> dict[str, str]:
        """Digests of the files beside the record in `folder`, by relative name; early records know none."""
        try:
            record = read_json(folder / "cell.json")
        except UnreadableTensor:
            return {}
        found = record.get("files") if isinstance(record, dict) else None
        return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}

    def missing(self, cell: Cell, known: dict[str, bool] | None = None) -> list[str]:
        """Artifacts of a cell whose tensors should be in the store and are not, or not in full length.

        Args:
            cell: of this store.
            known: what was found about digests before, for many cells that share tensors; filled in.
        """
        known = {} if known is None else known
        for artifact in cell.artifacts.values():
            if artifact.stored and artifact.digest not in known:
                known[artifact.digest] = self._holds(artifact.digest, artifact.dtype, artifact.shape)
        return [name for name, artifact in cell.artifacts.items() if artifact.stored and not known[artifact.digest]]

    def _holds(self, digest: str, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether an object is there, whole by its length; its bytes are not read."""
        try:
            tensor = read_safetensors(self.object_path(digest))[TENSOR]
        except (UnreadableTensor, OSError, KeyError):
            return False
        return (tensor.dtype, tensor.shape) == (dtype, shape)

    def cells(self) -> list[Cell]:
        """All cells, by version and repeat."""
        from harness.matrix import version_key

        found = (self.get(key) for key in self.keys())
        return sorted((cell for cell in found if cell), key=lambda c: (version_key(c.version), c.label, c.key))

    def load(self, artifact: Artifact) -> Tensor:
        """Map a stored tensor.

        Raises:
            UnreadableTensor: only the digest was kept, or the file is missing or damaged.
        """
        if not artifact.stored:
            raise UnreadableTensor("only the digest of this artifact was kept; index with `--capture full` to keep it")
        tensors = read_safetensors(self.object_path(artifact.digest))
        if TENSOR not in tensors:
            raise UnreadableTensor(f"{self.object_path(artifact.digest)}: holds no tensor named {TENSOR!r}")
        return tensors[TENSOR]

    def put_object(self, tensor: Tensor, digest: str, move: Path | None = None) -> None:
        """Keep a tensor; `move` is a file that already holds it, on the same filesystem, and is renamed into place."""
        path = self.object_path(digest)
        if path.exists() and self._holds(digest, tensor.dtype, tensor.shape):
            return
        new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        if new:
            _sync(path.parent.parent)
        if move is not None:
            _sync(move)
            move.replace(path)
            _sync(path.parent)
            return
        handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        os.close(handle)
        try:
            write_safetensors(name, {TENSOR: tensor})
            _sync(Path(name))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)

    def put(self, cell: Cell, *, log: Path | None = None, index: Path | None = None) -> Cell:
        """Keep how a run of a cell ended; a cell that ended well is replaced only by one that did and says as much.

        Any other is kept beside it, for `attempts`. Whoever reads sees the old cell or the new one, whole, or none
        while they change places.

        Args:
            cell: its objects are already stored; `finished` is filled in.
            log: what the job printed.
            index: the ColBERT index folder whose JSON files are kept.

        Returns:
            The cell as it was given, also where another one stays in its place.
        """
        cell = replace(cell, finished=datetime.now(UTC).isoformat(timespec="seconds"))
        self.write(cell, log=log, index=index)
        return cell

    def write(self, cell: Cell, *, log: Path | None = None, index: Path | None = None) -> None:
        """Write a cell as it is; see `put`."""
        cells = self.root / "cells"
        cells.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".new-", dir=cells))
        try:
            making.chmod(0o755)
            (making / "index").mkdir()
            files = {"log.txt": log} if log else {}
            files |= {f"index/{path.name}": path for path in (sorted(index.glob("*.json")) if index else ())}
            # A link in a folder from elsewhere would bring in whatever it points to.
            whole = {name: path for name, path in files.items() if path.is_file() and not path.is_symlink()}
            digests = {name: _copy(path, making / name) for name, path in whole.items()}
            record = json.loads(json.dumps({**asdict(cell), "files": digests}))
            record["seal"] = _seal(record)
            with (making / "cell.json").open("w", encoding="utf-8") as file:
                json.dump(record, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            _sync(making / "index")
            _sync(making)
            # Two writers of one cell: what is there must not change between the look and the placing.
            with self._placing():
                if says_less(cell, self.get(cell.key)):
                    self._place_beside(making, cell)
                else:
                    self._place(making, self.cell_folder(cell.key))
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _placing(self) -> Held:
        held = hold(self.root / PLACING)
        assert held is not None
        return held

    def _place_beside(self, making: Path, cell: Cell) -> None:
        """Put a new folder beside those of earlier attempts, of which the oldest goes."""
        folder = self.attempts_folder(cell.key)
        folder.mkdir(parents=True, exist_ok=True)
        making.rename(folder / f"{cell.finished[:19].replace(':', '')}-{making.name.removeprefix('.new-')}")
        _sync(folder)
        _sync(folder.parent)
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
            if _exchange(making, folder):
                # What was there before is in `making` now, which the caller deletes.
                break
            # A filesystem that cannot exchange, such as NFS: for a moment there is no cell.
            with suppress(FileNotFoundError):
                folder.rename(making.with_name(f".old-{making.name.removeprefix('.new-')}-{secrets.token_hex(4)}"))
        _sync(folder.parent)
        for old in folder.parent.glob(f".old-{making.name.removeprefix('.new-')}-*"):
            shutil.rmtree(old, ignore_errors=True)

    def ingest(self, index: Path, intermediates: Path, capture: str) -> dict[str, Artifact]:
        """Take a finished job's artifacts into the store, each digested once.

        Args:
            index: the ColBERT index folder.
            intermediates: `NAME.safetensors` files, each with one tensor named `tensor`; moved when kept.
            capture: `digests` keeps intermediates as digest, dtype and shape only.

        Raises:
            UnreadableTensor: a file of the job cannot be read; the job's output is invalid then.
        """
        artifacts: dict[str, Artifact] = {}
        for name, tensor in index_tensors(index):
            kind = "final" if is_final(name) else "value"
            artifacts[name] = self.keep_tensor(tensor, kind, stored=True)
        for path in sorted(intermediates.glob("*.safetensors")) if intermediates.is_dir() else ():
            tensor = read_safetensors(path)[TENSOR]
            kind = "value" if path.stem in {"sample_pids", "num_passages"} else "intermediate"
            artifacts[path.stem] = self.keep_tensor(tensor, kind, stored=capture == "full", move=path)
        return {name: artifacts[name] for name in in_order(artifacts)}

    def keep_tensor(self, tensor: Tensor, kind: str, *, stored: bool, move: Path | None = None) -> Artifact:
        """Take one tensor, or its digest alone, and return what a cell's record says of it; `move` is a file of it."""
        digest, nans = tensor.digest_and_nans()
        if stored:
            self.put_object(tensor, digest, move)
        return Artifact(digest, tensor.dtype, tensor.shape, kind, stored, nans)


def _written(folder: Path) -> tuple[int, str]:
    """When the record in a folder was written; the name decides between two of one moment."""
    with suppress(OSError):
        return (folder / "cell.json").stat().st_mtime_ns, folder.name
    return 0, folder.name


def _nans(found: object) -> int | None:
    """A record's count of NaNs, where it has one."""
    return found if type(found) is int and found >= 0 else None


def index_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a ColBERT index that a job has just written, and its document lengths as int64.

    Raises:
        UnreadableTensor: a file is missing or is not what colbert-ai writes.
    """
    pairs = {"ivf.pid.pt": ("ivf", "ivf_lengths"), "buckets.pt": ("bucket_cutoffs", "bucket_weights")}
    chunks = sorted(int(name) for path in folder.glob("*.codes.pt") if (name := path.name.split(".")[0]).isdigit())
    if chunks != list(range(max(1, len(chunks)))):
        raise UnreadableTensor(f"{folder}: holds the codes of chunks {chunks or 'none'}; they are numbered from 0")
    names = [f"{chunk}.{what}" for chunk in chunks for what in ("codes", "residuals")]
    for name in (*names, "centroids", "avg_residual"):
        tensor = read_pt(folder / f"{name}.pt")
        if not isinstance(tensor, Tensor):
            raise UnreadableTensor(f"{folder / name}.pt: does not hold one tensor")
        yield name, tensor
    for file, parts in pairs.items():
        found = read_pt(folder / file)
        if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(t, Tensor) for t in found)):
            raise UnreadableTensor(f"{folder / file}: does not hold a pair of tensors")
        yield from zip(parts, found, strict=True)
    try:
        doclens = [n for chunk in chunks for n in json.loads((folder / f"doclens.{chunk}.json").read_text())]
        yield "doclens", Tensor.of(np.array(doclens, dtype=np.int64))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UnreadableTensor(f"{folder}: doclens cannot be read: {error}") from error


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where the filesystem or the system cannot."""
    with suppress(OSError, AttributeError):
        done: int = ctypes.CDLL(None, use_errno=True).renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        return done == 0
    return False


def _seal(record: dict[str, Any]) -> str:
    """Digest of a record without its seal."""
    return blake3(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest(length=16)


def _copy(source: Path, target: Path) -> str:
    """Copy a file to the disk itself, and return the digest of the copy."""
    shutil.copyfile(source, target)
    _sync(target)
    return file_digest(target)


def file_digest(path: Path) -> str:
    """Blake3 of a file's bytes."""
    digest = blake3()
    digest.update_mmap(path)
    return digest.hexdigest(length=16)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class StoredCell:
    """A cell as a source of artifacts for the comparer."""

    store: Store
    cell: Cell
    title: str = ""

    @property
    def name(self) -> str:
        """The cell's label, or its title where a label does not tell it from others that are shown with it."""
        return self.title or self.cell.label

    def names(self) -> tuple[str, ...]:
        """Names of its artifacts, in the order of the pipeline."""
        return tuple(self.cell.artifacts)

    def unrecorded(self, name: str) -> str:
        """See `Cell.unrecorded`."""
        return self.cell.unrecorded(name)

    def load(self, name: str) -> Tensor:
        """Map a tensor; see `Store.load`.

        Its bytes are read once against its digest: numbers of a tensor that was damaged since would be taken for what a
        PyTorch release did.

        Raises:
            UnreadableTensor: also where they are not those that were stored.
        """
        artifact = self.cell.artifacts[name]
        tensor = self.store.load(artifact)
        if artifact.digest not in self.store.verified:
            if tensor.digest() != artifact.digest:
                raise UnreadableTensor(
                    f"{self.store.object_path(artifact.digest)} is damaged: its bytes are not those that were stored; "
                    "`harness store gc --damaged` removes it, and the next sweep makes it again."
                )
            self.store.verified.add(artifact.digest)
        return tensor

    def digest(self, name: str) -> str | None:
        """The digest that was taken when the cell was stored."""
        return self.cell.artifacts[name].digest

    def metadata(self) -> dict[str, Any]:
        """The index's own `metadata.json`; empty if it cannot be read."""
        try:
            found = read_json(self.store.cell_folder(self.cell.key) / "index" / "metadata.json")
        except UnreadableTensor:
            return {}
        return found if isinstance(found, dict) and not too_deep(found) else {}
