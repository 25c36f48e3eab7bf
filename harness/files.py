"""Reading JSON that somebody else may have written, and writing files that are whole or not there at all."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import mmap
import os
import resource
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from harness.errors import FULL_DISK, HarnessError, InfrastructureError, UnreadableTensor, UsageError
from harness.words import said

if TYPE_CHECKING:
    from harness.home import Home


_NO_MORE_FILES = frozenset((errno.EMFILE, errno.ENFILE))
_LFS = b"version https://git-lfs.github.com/spec/"  # how every pointer begins (git-lfs: docs/spec.md)


def map_file(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """A file's bytes as a read-only uint8 array, mapped; an empty file gives an empty array.

    Raises:
        UnreadableTensor: the file is missing, is not a regular file, may not be read, or only stands for one that was
            not downloaded: a pointer of git-lfs, or a link of a cache into nowhere.
        InfrastructureError: the process may not open one more file, which says nothing of this one.
    """
    _allow_many_files()
    with _opened(path) as (file, size):
        if not size:
            return np.empty(0, np.uint8)
        raw = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    _refuse_pointer(path, raw[: len(_LFS)].tobytes())
    return raw


@cache
def _allow_many_files() -> None:
    """Let this process open as many files as the system lets it: a mapping keeps its file open, an index has many.

    Usual is a limit of 1,024, made for programs that use `select`, below one of half a million.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def fetch_file(path: Path, size: int) -> None:
    """Have the disk read the first `size` bytes of a file, and wait for nothing; nothing where it cannot be read."""
    with suppress(OSError, UnreadableTensor), _opened(path) as (file, _):
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_WILLNEED)


def read_json(path: Path, parse: Callable[[bytes], object] = json.loads) -> object:
    """Read a JSON file.

    Args:
        path: of the file.
        parse: makes of its bytes what is returned, where not all of it is wanted, or not as Python's objects.

    Raises:
        UnreadableTensor: it is missing, huge, or not JSON; see also `map_file`.
    """
    with _opened(path) as (file, size):
        if size > 1 << 30:
            raise UnreadableTensor(f"{path} has {size} bytes, too many for an index's JSON.")
        raw = file.read()
    _refuse_pointer(path, raw[: len(_LFS)])
    try:
        found = parse(raw)
    except (ValueError, RecursionError) as error:
        raise UnreadableTensor(f"{path} is not valid JSON: {error}.") from error
    return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size."""
    try:
        # A pipe that came with a folder from elsewhere would be waited for without end.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is not a regular file")
            yield file, about.st_size
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _NO_MORE_FILES:
            raise InfrastructureError(
                f"{path} cannot be opened beside all others: {said(error)}. Allow more open files (`ulimit -n`); an "
                "index needs two a chunk."
            ) from error
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise UnreadableTensor(
                f"{path} is a link to {path.readlink()}, which is not there: its content was not downloaded, or was "
                "removed from the cache; download it again."
            ) from error
        raise UnreadableTensor(f"{path} cannot be read: {said(error)}.") from error


def _refuse_pointer(path: Path, head: bytes) -> None:
    if head == _LFS:
        raise UnreadableTensor(
            f"{path} is a pointer of git-lfs, not the file itself, which was not downloaded: run `git lfs pull` in the "
            "repository that it came from."
        )


_HOLDING = frozenset({dict, list})  # of what `json` makes


def too_deep(value: object, limit: int = 32) -> bool:
    """Whether a JSON value nests deeper than `limit`; what nests as deep as JSON allows cannot even be compared."""
    # Level by level: a record has thousands of values, and a call for each would cost more than reading it did.
    level: list[Any] = [value] if type(value) in _HOLDING else []
    depth = 0
    while level and depth < limit:
        inner = (one.values() if type(one) is dict else one for one in level)
        level, depth = [value for values in inner for value in values if type(value) in _HOLDING], depth + 1
    return bool(level)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where the filesystem or the system cannot."""
    with suppress(OSError, AttributeError):
        done: int = ctypes.CDLL(None, use_errno=True).renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        return done == 0
    return False


def copy(source: Path, target: Path) -> str:
    """Copy a file to the disk itself, and return the digest of the copy."""
    import shutil

    shutil.copyfile(source, target)
    sync_file(target)
    return file_digest(target)


def file_digest(path: Path) -> str:
    """Blake3 of a file's bytes."""
    from blake3 import blake3

    digest = blake3()
    digest.update_mmap(path)
    return digest.hexdigest(length=16)


def sync_file(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object, *, indent: int | None = None) -> None:
    """Write a JSON file, so that it is on disk afterwards; keys are sorted where it is indented, for people."""
    path.write_text(json.dumps(value, indent=indent, sort_keys=indent is not None), encoding="utf-8")
    sync_file(path)


_INFINITY = f"infinity {os.urandom(16).hex()}"  # stands for an infinite number until the text is made; in no file


def dumps(record: object) -> str:
    """One JSON object as text; infinity is 1e999, which JSON allows and parsers read as infinity, and NaN is null."""

    def clean(node: object) -> object:
        if isinstance(node, Mapping):
            return {str(key): clean(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [clean(value) for value in node]
        if isinstance(node, float) and not math.isfinite(node):
            return None if math.isnan(node) else _INFINITY if node > 0 else f"-{_INFINITY}"
        return node

    text = json.dumps(clean(record), allow_nan=False)
    plus, minus = json.dumps(_INFINITY), json.dumps(f"-{_INFINITY}")
    return text.replace(minus, "-1e999").replace(plus, "1e999")


@contextmanager
def disk_errors(home: Home) -> Iterator[None]:
    """Turn "no space left", "read-only" and a disk's own errors into sentences.

    Raises:
        HarnessError: with exit code 2, naming the folder and the mend; with 3 where the disk itself fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise HarnessError(
                f"The disk of {home.root} is full: free some space, or point --home (or HARNESS_HOME) to another disk."
            ) from error
        if error.errno in {errno.EIO, errno.ESTALE, errno.ENODEV, errno.EREMOTEIO}:
            raise InfrastructureError(
                f"The disk of {error.filename or home.root} answers with errors ({error.strerror}); what was stored "
                "before is kept, and the same command goes on once it works again."
            ) from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST}:
            raise HarnessError(
                f"{error.filename or home.root} cannot be written ({error.strerror}): point --home (or HARNESS_HOME) "
                "to a folder that can."
            ) from error
        raise


def writable_folder(folder: Path, option: str) -> Path:
    """Say whether a folder can be written, or made, by a try that leaves nothing behind.

    Raises:
        UsageError: it cannot; the sentence names the option.
    """
    import tempfile

    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        # Permissions are not asked for: root has them all, on read-only filesystems and in /proc too.
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        what = "is not a folder" if not there.is_dir() else f"cannot be written ({said(error)})"
        raise UsageError(f"{option}: {there} {what}; name a folder that can be written.") from error
    return folder


def writable_file(path: Path, option: str) -> Path:
    """The same for a file that will be made or appended to.

    Raises:
        UsageError: it cannot be written.
    """
    if not path.exists():
        folder = path.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"{option}: there is no folder {folder}; make it, or name another file.")
        writable_folder(folder, option)
        return path
    try:
        path.open("ab").close()
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be written ({said(error)}); name another file.") from error
    return path
