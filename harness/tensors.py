"""Tensors read from files without torch: torch's `.pt` archives and safetensors; and their digests.

Input is untrusted: nothing in a file is executed, every size is checked against the file before it is used, and
whatever cannot be read becomes an `UnreadableTensor` that says which file and why. Numbers stay in the file, mapped.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.errors import HarnessError, printable

if sys.byteorder != "little":  # pragma: no cover - no such host has a torch wheel
    raise ImportError("harness.tensors maps little-endian files and works on little-endian hosts only")

Array = np.ndarray[Any, np.dtype[Any]]

_HEADER_LIMIT = 100 * 1024 * 1024  # the safetensors specification's own limit on its JSON header
_MAX_DIMS = 64  # NumPy 2's limit; torch writes no tensor with more
_HASH_SLICE = 64 * 1024 * 1024
_LFS = b"version https://git-lfs.github.com/spec/"  # how every pointer begins (git-lfs: docs/spec.md)
_MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it


class UnreadableTensor(HarnessError):  # noqa: N818 - named after the status `unreadable`
    """A file, or a tensor in it, cannot be read; the message names the file and the reason.

    The message may quote names from the file, so it has a limit.
    """

    def __init__(self, message: str) -> None:
        shown = printable(message)
        super().__init__(shown if len(shown) <= 1000 else f"{shown[:997]}...")


@dataclass(frozen=True)
class Dtype:
    """How one of torch's dtypes is held here.

    `name` is torch's name without its prefix. `storage` is the NumPy dtype of `Tensor.data`, which for dtypes that
    NumPy lacks is an unsigned integer of the same width holding the bits. `code` is the safetensors name, None where
    that format has none.
    """

    name: str
    storage: str
    code: str | None
    kind: str  # "float", "int", "bool" or "complex"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return np.dtype(self.storage).itemsize


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("float16", "<f2", "F16", "float"),
        Dtype("bfloat16", "<u2", "BF16", "float"),
        Dtype("float32", "<f4", "F32", "float"),
        Dtype("float64", "<f8", "F64", "float"),
        Dtype("float8_e4m3fn", "|u1", "F8_E4M3", "float"),
        Dtype("float8_e5m2", "|u1", "F8_E5M2", "float"),
        Dtype("float8_e4m3fnuz", "|u1", None, "float"),
        Dtype("float8_e5m2fnuz", "|u1", None, "float"),
        Dtype("float8_e8m0fnu", "|u1", "F8_E8M0", "float"),
        Dtype("uint8", "|u1", "U8", "int"),
        Dtype("int8", "|i1", "I8", "int"),
        Dtype("uint16", "<u2", "U16", "int"),
        Dtype("int16", "<i2", "I16", "int"),
        Dtype("uint32", "<u4", "U32", "int"),
        Dtype("int32", "<i4", "I32", "int"),
        Dtype("uint64", "<u8", "U64", "int"),
        Dtype("int64", "<i8", "I64", "int"),
        Dtype("bool", "|b1", "BOOL", "bool"),
        Dtype("complex32", "<u4", None, "complex"),
        Dtype("complex64", "<c8", "C64", "complex"),
        Dtype("complex128", "<c16", None, "complex"),
    )
}
_BY_CODE = {dtype.code: dtype for dtype in DTYPES.values() if dtype.code is not None}
_BY_NUMPY = {np.dtype(dtype.storage): dtype for dtype in DTYPES.values() if np.dtype(dtype.storage).name == dtype.name}


@dataclass(frozen=True)
class Tensor:
    """An immutable tensor: torch's dtype name, shape, and elements.

    `data` has shape `shape`, is C-contiguous, and is read-only and memory-mapped where it comes from a file. Its NumPy
    dtype is `DTYPES[dtype].storage`: **bfloat16 is held as its uint16 bits**, float8 formats as uint8 bits and
    complex32 as uint32 bits, because NumPy has no such numbers. `check` is `verify`'s, None where there is no checksum.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Array = field(repr=False, compare=False)
    check: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UnreadableTensor(f"{self.dtype!r} is not a dtype this harness knows; it knows {', '.join(DTYPES)}.")
        if self.data.dtype != np.dtype(DTYPES[self.dtype].storage) or self.data.shape != self.shape:
            raise ValueError(f"{self.dtype} {self.shape} cannot be held in {self.data.dtype} {self.data.shape}")

    @classmethod
    def of(cls, array: Array, dtype: str | None = None) -> Tensor:
        """Wrap an array; `dtype` names torch's dtype where the array holds bits (bfloat16 in uint16)."""
        array = np.asarray(array)
        # ascontiguousarray makes a scalar one-dimensional, so put the shape back.
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        if dtype is None:
            if contiguous.dtype not in _BY_NUMPY:
                raise UnreadableTensor(f"NumPy's {contiguous.dtype} has no torch dtype.")
            dtype = _BY_NUMPY[contiguous.dtype].name
        return cls(dtype, contiguous.shape, contiguous)

    @property
    def n(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return self.n * DTYPES[self.dtype].itemsize

    @property
    def flat(self) -> Array:
        """The elements as a one-dimensional view, in C order."""
        return self.data.reshape(-1)

    def buffer(self) -> memoryview:
        """The elements as little-endian bytes, without a copy."""
        return self.flat.view(np.uint8).data

    def verify(self) -> None:
        """Hold the elements against the checksum that their file has of them, if it has one.

        Reading does not, because equal tensors need no proof: ask where one differs from another.

        Raises:
            UnreadableTensor: they are not what was saved; the sentence names file and member.
        """
        if self.check is not None:
            self.check()

    def digest(self) -> str:
        """Hex blake3 of dtype, shape and bytes: equal exactly when all three are.

        The header is `harness.tensor.v1`, the dtype's name, and the shape's decimal numbers joined by commas, each
        ended by a zero byte; the elements follow, little-endian, in C order.
        """
        return self._read_through(lambda _: None)

    def digest_and_nans(self) -> tuple[str, int]:
        """The digest, and how many elements are NaN, from one reading: bit-equal NaNs are not close in torch."""
        from harness._passes import count_nan

        found: list[int] = []
        digest = self._read_through(lambda raw: found.append(count_nan(raw, self.dtype)))
        return digest, sum(found)

    def _read_through(self, look: Callable[[Array], None]) -> str:
        """Hash the tensor, and show each slice's bytes, which hold whole elements, to `look`."""
        from blake3 import blake3

        shape = ",".join(str(size) for size in self.shape)
        hasher = blake3(f"harness.tensor.v1\0{self.dtype}\0{shape}\0".encode(), max_threads=blake3.AUTO)
        raw = self.flat.view(np.uint8)
        for part in slices(raw):
            hasher.update(part.data)
            look(part)
        return hasher.hexdigest()


def map_file(path: Path) -> Array:
    """A file's bytes as a read-only uint8 array, mapped; an empty file gives an empty array.

    Raises:
        UnreadableTensor: the file is missing, is not a regular file, may not be read, or only stands for one that was
            not downloaded: a pointer of git-lfs, or a link of a cache into nowhere.
    """
    try:
        # A pipe that came with a folder from elsewhere would be waited for without end.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is not a regular file")
            size = about.st_size
            if size == 0:
                return np.empty(0, np.uint8)
            raw = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise UnreadableTensor(
                f"{path} is a link to {path.readlink()}, which is not there: its content was not downloaded, or was "
                "removed from the cache; download it again."
            ) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableTensor(f"{path} cannot be read: {reason}.") from error
    if raw[: len(_LFS)].tobytes() == _LFS:
        raise UnreadableTensor(
            f"{path} is a pointer of git-lfs, not the file itself, which was not downloaded: run `git lfs pull` in the "
            "repository that it came from."
        )
    return raw


def take_in(*chunks: Array) -> None:
    """Read mapped pages at once, which costs less than faulting them one by one."""
    for chunk in chunks:
        _advise(chunk, _MADV_POPULATE_READ)


def slices(raw: Array) -> Iterator[Array]:
    """Bytes in stretches that hold whole elements, each given back when it was looked at."""
    for start in range(0, raw.size, _HASH_SLICE):
        part = raw[start : start + _HASH_SLICE]
        yield part
        give_back(part)


def give_back(*chunks: Array) -> None:
    """Let the system take back mapped pages that will not be needed again."""
    for chunk in chunks:
        _advise(chunk, mmap.MADV_DONTNEED)


def _advise(chunk: Array, advice: int) -> None:
    """Tell the system about a mapped chunk's pages; an array that is no mapping is left alone.

    Taking them in at once costs less than faulting one by one, and fetching ahead works on pages that are there only.
    Giving them back keeps memory bounded whatever the file's size: only whole pages inside the chunk, which are clean
    and come back from the file.
    """
    owner: object = chunk
    while isinstance(owner, np.ndarray):
        owner = owner.base
    while isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, mmap.mmap) or chunk.size == 0:
        return
    base = np.frombuffer(owner, np.uint8, 1).ctypes.data
    first = -(-(chunk.ctypes.data - base) // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (chunk.ctypes.data - base + chunk.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    # Advice may be refused: by a system that does not know it, or for a file that has shrunk.
    with contextlib.suppress(OSError):
        if last > first:
            owner.madvise(advice, first, last - first)


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


def read_pt(path: str | Path) -> object:
    """Read what `torch.save` wrote, as nested dicts, lists, tuples and scalars with `Tensor` leaves.

    Nothing in the file is executed: the pickle is interpreted by `harness._torchfile`, which knows torch's tensors and
    plain containers and refuses every other name.

    Raises:
        UnreadableTensor: the file is missing, truncated, in the format of torch before 1.6, holds something else, or
            is one that torch would refuse or might understand in another way.
    """
    from harness._torchfile import read

    return read(Path(path))


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file, mapped, in the header's order.

    Follows the format's rules: an 8-byte little-endian header length, a JSON object, then one buffer that the tensors
    cover without holes or overlaps (https://huggingface.co/docs/safetensors#format).

    Raises:
        UnreadableTensor: the file breaks one of these rules or holds a dtype that is not known here.
    """
    path = Path(path)
    raw = map_file(path)
    header, start = _safetensors_header(path, raw)
    spans: list[tuple[int, int]] = []
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _safetensors_entry(path, name, entry, raw.size - start)
        spans.append((begin, end))
        data = view_bytes(raw[start + begin : start + end], dtype, shape)
        tensors[name] = Tensor(dtype.name, shape, data)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise UnreadableTensor(f"{path}: its tensors overlap or leave a hole at byte {position} of the data.")
        position = end
    if position != raw.size - start:
        raise UnreadableTensor(f"{path}: {raw.size - start - position} bytes at its end belong to no tensor.")
    return tensors


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object, refusing a repeated key: two readers would see two different tensors."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _safetensors_header(path: Path, raw: Array) -> tuple[dict[str, object], int]:
    """The JSON header and where the data start."""
    if raw.size < 8:
        raise UnreadableTensor(f"{path} is too short for a safetensors file ({raw.size} bytes).")
    length = int.from_bytes(raw[:8].tobytes(), "little")
    if length > min(_HEADER_LIMIT, raw.size - 8):
        raise UnreadableTensor(f"{path} is truncated or no safetensors file: its header would have {length} bytes.")
    try:
        header = json.loads(raw[8 : 8 + length].tobytes().decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UnreadableTensor(f"{path} has a safetensors header that is not valid JSON: {error}.") from error
    if not isinstance(header, dict):
        raise UnreadableTensor(f"{path} has a safetensors header that is not a JSON object.")
    return header, 8 + length


def _safetensors_entry(path: Path, name: str, entry: object, size: int) -> tuple[Dtype, tuple[int, ...], int, int]:
    """Check one tensor's header entry against `size`, the bytes of data in the file."""
    where = f"{path}, tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UnreadableTensor(f"{where}: the header entry must have dtype, shape and data_offsets, nothing else.")
    code = entry["dtype"]
    if not isinstance(code, str) or code not in _BY_CODE:
        raise UnreadableTensor(f"{where}: {code!r} is not a dtype this harness knows.")
    dtype = _BY_CODE[code]
    shape = check_shape(entry["shape"], where)
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(offset) is not int for offset in offsets):
        raise UnreadableTensor(f"{where}: data_offsets is not a pair of integers.")
    begin, end = offsets
    if not 0 <= begin <= end <= size:
        raise UnreadableTensor(f"{where}: bytes {begin} to {end} lie outside the file's {size} bytes of data.")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise UnreadableTensor(f"{where}: {end - begin} bytes cannot hold {dtype.name} of shape {list(shape)}.")
    return dtype, shape, begin, end


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, streaming; the caller makes it atomic if it needs that.

    Widest elements come first and the header is padded to 8 bytes, as the format's own writer does, so that every
    tensor is aligned when mapped.

    Raises:
        UnreadableTensor: a dtype has no name in the format.
        OSError: the file cannot be written.
    """
    with Path(path).open("wb") as file:
        for part in _safetensors_parts(tensors, metadata or {}):
            _write_all(file, part)


def _safetensors_parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The header, then each tensor's bytes."""
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        tensor = tensors[name]
        code = DTYPES[tensor.dtype].code
        if code is None:
            raise UnreadableTensor(f"Tensor {name!r} is {tensor.dtype}, which the safetensors format cannot hold.")
        end = position + tensor.nbytes
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield tensors[name].buffer()


def _write_all(file: BinaryIO | io.BufferedWriter, part: bytes | memoryview) -> None:
    """Write in slices: one `write` of more than 2 GiB is cut short on Linux."""
    view = memoryview(part)
    for start in range(0, len(view), _HASH_SLICE):
        file.write(view[start : start + _HASH_SLICE])
