"""Files as memory: mapping them, asking for their pages, and giving the pages back."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Iterator
from functools import cache

import numpy as np

from harness.errors import UnreadableTensor
from harness.tensors.dtypes import Array, Dtype

_MAX_DIMS = 64  # NumPy 2's limit; torch writes no tensor with more
HASH_SLICE = 64 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT = -1, -3, 1 << 27  # of glibc's malloc.h, and bytes
_MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it
_AROUND = 1 << 21  # Linux maps the pages around one that is asked for, as many as it read at once: up to 2 MiB


@cache
def keep_memory() -> None:
    """Have the memory of arrays used again, once for this process and those that it forks; only glibc must be told.

    Else it maps each array above 128 KiB anew and gives what is freed at the end of its heap back, up to a limit that
    depends on what was freed before: fresh pages, each of which the system clears, cost several times as much as the
    arithmetic.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = _libc().mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT // 4)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def take_in(*chunks: Array) -> None:
    """Have mapped pages at hand: what a kernel fetches ahead is not fetched where a page is not there yet."""
    for chunk in chunks:
        _advise(chunk, _MADV_POPULATE_READ)


def slices(raw: Array, size: int = HASH_SLICE) -> Iterator[Array]:
    """Bytes in stretches of `size`, which must hold whole elements; the disk reads the next while one is looked at.

    Each is given back when it was looked at, unless all of them are few: these go with their mapping, and whoever
    looks at them before that has them at once.
    """
    _advise(raw[:size], mmap.MADV_WILLNEED)
    for start in range(0, raw.size, size):
        part = raw[start : start + size]
        _advise(raw[start + size : start + 2 * size], mmap.MADV_WILLNEED)
        yield part
        if is_large(raw):
            give_back(part)


def is_large(raw: Array) -> bool:
    """Whether pages are to be given back while others of the same tensor are looked at."""
    return raw.nbytes > HASH_SLICE


def give_back(*chunks: Array) -> None:
    """Let the system take back mapped pages that will not be needed again, with those that came along before them."""
    for chunk in chunks:
        _advise(chunk, mmap.MADV_DONTNEED, _AROUND)


def _advise(chunk: Array, advice: int, stretch: int = mmap.PAGESIZE) -> None:
    """Tell the system about the pages of a mapped chunk, which are clean; an array that is no mapping stays.

    From where the `stretch` of memory begins that the chunk begins in.

    A page that the chunk shares with a neighbour goes, too: who needs it has it again at once.
    """
    owner: object = chunk
    while isinstance(owner, np.ndarray):
        owner = owner.base
    while isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, mmap.mmap) or chunk.size == 0:
        return
    begin, base = address(chunk), address(np.frombuffer(owner, np.uint8, 1))
    # Never beyond the mapping: memory that is something else would be emptied.
    first, last = max(begin // stretch * stretch, base), min(begin + chunk.nbytes, base + len(owner))
    # Advice may be refused: by a system that does not know it, or for a file that has shrunk.
    _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


@cache
def _libc() -> ctypes.CDLL:
    """The C library; what is called in it lets go of Python's lock, as `mmap.madvise` does not, for milliseconds."""
    return ctypes.CDLL(None)


def address(array: Array) -> int:
    """Where an array begins; its `ctypes.data` takes ten times as long."""
    place: int = array.__array_interface__["data"][0]
    return place


def view_bytes(raw: Array, dtype: Dtype, shape: tuple[int, ...]) -> Array:
    """See `raw`, uint8 bytes of exactly the right number, as `shape` elements of `dtype`, without a copy."""
    if math.prod(shape) == 0:
        return np.empty(shape, dtype.storage)
    return np.frombuffer(raw, dtype.storage).reshape(shape)


def check_shape(values: object, where: str) -> tuple[int, ...]:
    """Check that `values` is a list or tuple of non-negative integers that NumPy can index.

    Raises:
        UnreadableTensor: it is not; the sentence starts with `where`.
    """
    if not isinstance(values, (list, tuple)) or len(values) > _MAX_DIMS:
        raise UnreadableTensor(f"{where}: the shape is not a list of at most {_MAX_DIMS} sizes.")
    if any(type(size) is not int or size < 0 or size >= 2**63 for size in values):
        raise UnreadableTensor(f"{where}: the shape holds something that is not a size.")
    # The product over the non-zero sizes, so that a zero cannot hide an absurd size from NumPy.
    if math.prod(size for size in values if size) >= 2**60:
        raise UnreadableTensor(f"{where}: the shape has more elements than a machine can address.")
    return tuple(values)
