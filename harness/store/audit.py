"""Take stock of a store: find what is damaged, missing or left over, and remove what nothing refers to.

Both are safe while sweeps run. Files are listed while no cell is being written (the store's lock is held alone for that
moment), so a tensor whose record is about to come is never taken for an orphan; bytes are read again without the lock.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import InfrastructureError, UnreadableTensor
from harness.files import file_digest
from harness.flock import hold
from harness.store.cell import Cell
from harness.store.objects import TENSOR
from harness.store.store import ATTEMPT, MODEL, PLACING, Store
from harness.tensors.safetensors import read_safetensors

DAMAGED, MISSING, ORPHAN, LEFTOVER, FOREIGN = "damaged", "missing", "orphan", "leftover", "foreign"
_OBJECT = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]+)\.safetensors")
_RUN = re.compile(rf"(cells/[0-9A-Za-z]+|attempts/([0-9A-Za-z]+)/{ATTEMPT.pattern})/(.+)")
_EMPTY = re.compile(rf"(?:cells|attempts)/[0-9A-Za-z]+|attempts/[0-9A-Za-z]+/{ATTEMPT.pattern}")
_MAKING = re.compile(r"((?:cells|objects/[0-9a-f]{2})/\.(?:new|old)-[^/]+)(?:/.*)?|cells/[0-9A-Za-z]+/cell\.json\.new")
_EARLY = re.compile(r"log\.txt|index/[^/]+\.json")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: `damaged` (it is not what was stored), `missing` (a record names it), `orphan` (no record names it),
            `leftover` (of a write or a run that was killed) or `foreign` (not the harness's; never removed).
        path: relative to the home's or the store's folder.
        text: why, and whom it concerns.
        cells: keys of cells that cannot be used because of it.
    """

    kind: str
    path: str
    text: str
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stock:
    """What a look at a store found.

    Attributes:
        cells: whole records.
        objects: objects that records name and that are whole.
        size: their bytes.
        findings: in the order of their paths.
    """

    cells: int
    objects: int
    size: int
    findings: tuple[Finding, ...]


@dataclass
class _Listing:
    """The files of a store at one moment, and what its records say of them."""

    sizes: dict[str, int] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """Folder of a cell, or of a run kept beside one, to the digests of its files, where its record can be read."""
    users: dict[str, list[str]] = field(default_factory=dict)

    def labels(self, keys: Iterable[str]) -> str:
        """Cells in words."""
        named = [self.cells[key].label for key in keys]
        return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def verify(store: Store, *, read: bool = True, say: Callable[[str], None] = lambda _text: None) -> Stock:
    """Compare every file of a store with the digests that its records keep.

    Args:
        store: what to look at.
        read: read every byte again; otherwise only presence and length count.
        say: called with the name of each object as it is read.
    """
    with _alone(store):
        listing = _list(store)
    findings = [*_unexpected(listing), *_missing(listing)]
    objects, size = 0, 0
    for path, found in sorted(listing.sizes.items()):
        digest = _digest_of(path)
        if digest is None or digest not in listing.users:
            continue
        say(path)
        wrong = _wrong_object(store, digest, read=read)
        users = listing.users[digest]
        # It may have been removed meanwhile, with all that named it.
        if wrong and any(store.get(key) for key in users):
            findings.append(Finding(DAMAGED, path, f"{wrong}; needed by {listing.labels(users)}", tuple(users)))
        elif not wrong:
            objects, size = objects + 1, size + found
    if read:
        findings += _wrong_files(store, listing)
    return Stock(len(listing.cells), objects, size, tuple(sorted(findings, key=lambda f: (f.path, f.kind))))


@dataclass(frozen=True)
class Collected:
    """What `collect` removed, or would remove.

    Attributes:
        removed: what, why and how many bytes.
        kept: what it left, and why.
        size: bytes in all.
    """

    removed: tuple[tuple[Finding, int], ...]
    kept: tuple[Finding, ...]
    size: int


def collect(store: Store, *, damaged: bool = False, dry_run: bool = False) -> Collected:
    """Remove from a store what no record refers to.

    Args:
        store: what to tidy.
        damaged: also remove damaged files, and the cells that need them or that lack something: the next sweep runs
            them again. Reads every byte.
        dry_run: only say what would be removed.
    """
    broken = [f for f in verify(store).findings if f.kind in {DAMAGED, MISSING}] if damaged else []
    with _alone(store):
        listing = _list(store)
        findings = _unexpected(listing)
        blamed: dict[str, list[Finding]] = {}
        for finding in broken:
            for key in finding.cells:
                blamed.setdefault(key, []).append(finding)
        doomed = sorted(key for key, mine in blamed.items() if _still(store, key, mine))
        paths: dict[str, Finding] = {f.path: f for f in findings if f.kind in {ORPHAN, LEFTOVER}}
        paths |= {f.path: f for f in (*findings, *broken) if damaged and f.kind == DAMAGED}
        for key in doomed:
            label = listing.cells[key].label if key in listing.cells else key
            paths[f"cells/{key}"] = Finding(DAMAGED, f"cells/{key}", f"{label} needs what is damaged or missing")
        sizes: Counter[str] = Counter()
        for name, number in listing.sizes.items():
            for place in (*_around(name), name):
                sizes[place] += number
        removed = []
        for path, finding in sorted(paths.items()):
            # What lies in a folder that goes, goes with it.
            if _inside(path, paths):
                continue
            removed.append((finding, sizes[path]))
            if not dry_run:
                _remove(store.root / path)
        if not dry_run:
            _remove_empty(store.root / "objects")
            _remove_empty(store.root / "attempts")
    gone = {finding.path for finding, _ in removed}
    kept = tuple(f for f in (*findings, *broken) if f.path not in gone and not _inside(f.path, gone))
    return Collected(tuple(removed), kept, sum(size for _, size in removed))


def counts(findings: Iterable[Finding]) -> str:
    """How many of each kind, such as `1 damaged, 2 orphan`."""
    return ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(f.kind for f in findings).items()))


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            if store.root.is_dir():
                held.enter_context(hold(store.lock_path))
        except PermissionError as error:
            raise InfrastructureError(f"{store.lock_path} cannot be written ({error.strerror}).") from error
        except OSError as error:
            # A store on a read-only disk has no writers.
            if os.access(store.root, os.W_OK):
                raise InfrastructureError(f"{store.lock_path} cannot be locked ({error.strerror}).") from error
        yield


def _list(store: Store) -> _Listing:
    listing = _Listing()
    for folder, folders, names in os.walk(store.root):
        here = Path(folder)
        for name in (*names, *(n for n in folders if (here / n).is_symlink())):
            path = here / name
            with contextlib.suppress(FileNotFoundError):
                listing.sizes[path.relative_to(store.root).as_posix()] = path.lstat().st_size
        if not folders and not names and here != store.root:
            listing.sizes[here.relative_to(store.root).as_posix()] = 0
    for key in store.keys():  # noqa: SIM118 - not a dict
        found = store.whole(store.cell_folder(key), key)
        if found is None:
            continue
        cell, listing.files[f"cells/{key}"] = found
        # Of thousands of cells, what else their records say would fill the memory.
        listing.cells[key] = replace(cell, details={})
        # Also where the record says that only the digest was kept: another cell's tensor has the same.
        for digest in {artifact.digest for artifact in cell.artifacts.values()}:
            listing.users.setdefault(digest, []).append(key)
    beside = store.root / "attempts"
    for key in sorted(path.name for path in beside.iterdir()) if beside.is_dir() else ():
        for attempt in store.attempt_folders(key):
            if found := store.whole(attempt, key):
                listing.files[attempt.relative_to(store.root).as_posix()] = found[1]
    return listing


def _digest_of(path: str) -> str | None:
    match = _OBJECT.fullmatch(path)
    return match[2] if match and match[2].startswith(match[1]) else None


def _unexpected(listing: _Listing) -> list[Finding]:
    """Files that no record accounts for."""
    found: dict[str, Finding] = {}
    for path in sorted(listing.sizes):
        if finding := _judge(listing, path):
            found.setdefault(finding.path, finding)
    return list(found.values())


def _judge(listing: _Listing, path: str) -> Finding | None:  # noqa: PLR0911 - one for each kind of file
    if path in {".lock", PLACING, "cells", "objects", "attempts"}:
        return None
    if making := _MAKING.fullmatch(path):
        return Finding(LEFTOVER, making[1] or path, "of a write that was interrupted")
    digest = _digest_of(path)
    if digest is not None:
        return None if digest in listing.users else Finding(ORPHAN, path, "no record names it")
    if re.fullmatch(r"objects/[0-9a-f]{2}", path):
        return Finding(LEFTOVER, path, "an empty folder")
    match = _RUN.fullmatch(path)
    if match is None:
        if _EMPTY.fullmatch(path):
            return Finding(LEFTOVER, path, "an empty folder")
        return Finding(FOREIGN, path, "not a file of the harness")
    folder, beside, name = match.groups()
    if beside and f"cells/{beside}/cell.json" not in listing.sizes:
        return Finding(ORPHAN, f"attempts/{beside}", "a run that was kept beside a cell which is not there")
    known = listing.files.get(folder)
    if known is None:
        if beside or f"{folder}/cell.json" in listing.sizes:
            return Finding(DAMAGED, folder, "its record cannot be read, or is not what was written")
        return Finding(LEFTOVER, folder, "a folder without a record")
    early = not beside and not known and _EARLY.fullmatch(name)
    ours = early or name in {"cell.json", "index", MODEL, *known}
    return None if ours else Finding(FOREIGN, path, "not a file of the harness")


def _missing(listing: _Listing) -> list[Finding]:
    found = []
    for key, cell in sorted(listing.cells.items()):
        for name, artifact in cell.artifacts.items():
            path = f"objects/{artifact.digest[:2]}/{artifact.digest}.safetensors"
            if artifact.stored and path not in listing.sizes:
                found.append(Finding(MISSING, path, f"{name} of {cell.label}", (key,)))
        found += [
            Finding(MISSING, f"cells/{key}/{name}", f"a file of {cell.label}", (key,))
            for name in listing.files[f"cells/{key}"]
            if f"cells/{key}/{name}" not in listing.sizes
        ]
    return found


def _wrong_object(store: Store, digest: str, *, read: bool) -> str:
    """What is wrong with an object, or nothing."""
    path = store.object_path(digest)
    try:
        if not path.is_file() or path.is_symlink():
            return "it is not a file"
        tensors = read_safetensors(path)
    except UnreadableTensor as error:
        return f"it cannot be read ({error})"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if set(tensors) != {TENSOR}:
        return "it does not hold one tensor"
    if read and tensors[TENSOR].digest() != digest:
        return "its bytes are not those that its digest was taken of"
    return ""


def _wrong_files(store: Store, listing: _Listing) -> list[Finding]:
    found = []
    for folder, files in listing.files.items():
        _, owner, *beside = folder.split("/")
        key = "" if beside else owner
        for name, digest in files.items():
            # What a cell lacks was found already.
            whole = bool(key)
            if f"{folder}/{name}" in listing.sizes:
                with contextlib.suppress(OSError):
                    whole = file_digest(store.root / folder / name) == digest
            now = None if whole else store.whole(store.root / folder, owner)
            if now is None or now[1].get(name) != digest:
                continue
            if key:
                text = f"its bytes are not those that were stored with {listing.cells[key].label}"
                found.append(Finding(DAMAGED, f"{folder}/{name}", text, (key,)))
            else:
                found.append(Finding(DAMAGED, folder, f"{name} is not what was stored with it"))
    return found


def _still(store: Store, key: str, broken: Iterable[Finding]) -> bool:
    """Whether a cell still is what it was when these were found of it; it may have been run again since."""
    if store.get(key) is None:
        return False
    return any((store.root / finding.path).exists() == (finding.kind == DAMAGED) for finding in broken)


def _inside(path: str, folders: Container[str]) -> bool:
    return any(folder in folders for folder in _around(path))


def _around(path: str) -> Iterator[str]:
    """The folders that a path is in, from the outermost."""
    return itertools.accumulate(path.split("/")[:-1], "{}/{}".format)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_empty(folders: Path) -> None:
    for folder in sorted(folders.iterdir()) if folders.is_dir() else ():
        with contextlib.suppress(OSError):
            folder.rmdir()
