"""Writing tensors as `torch.save` does, without torch: what torch loads with `weights_only`, and older ones plainly.

The form is that of torch 1.6 and later: a zip archive, uncompressed, of a pickle (protocol 2) that calls
`torch._utils._rebuild_tensor_v2`, and one record of bytes for each tensor.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UnreadableTensor
from harness.tensors.tensor import Tensor

_STORAGES = {
    "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float32": "FloatStorage", "float64": "DoubleStorage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
_ROOT = "archive"
_HEADER, _WIDE = 30, 20  # bytes of a member's header, and of the extra field with sizes that need 64 bits
_ALIGNMENT = 64  # torch's, which lets a mapped file be computed with as it is


def write_pt(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write one tensor, or several as a tuple.

    Raises:
        UnreadableTensor: a dtype for which torch has no storage of its own.
    """
    body = b"".join(_call(tensor, key) for key, tensor in enumerate(tensors))
    pickle = b"\x80\x02" + (body if len(tensors) == 1 else b"(" + body + b"t") + b"."
    records: list[tuple[str, bytes | memoryview]] = [("data.pkl", pickle), ("byteorder", b"little")]
    records += [(f"data/{key}", tensor.buffer()) for key, tensor in enumerate(tensors)]
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, held in (*records, ("version", b"3\n")):
            # A date of its own would give equal tensors other files.
            about, wide = zipfile.ZipInfo(f"{_ROOT}/{name}"), len(held) >= 1 << 31
            about.extra = _padding(file.tell() + _HEADER + len(about.filename) + (_WIDE if wide else 0))
            with archive.open(about, "w", force_zip64=wide) as record:
                record.write(held)


def _padding(begin: int) -> bytes:
    """What torch puts between a header and its bytes, which would begin at `begin`, so that they begin at a multiple.

    It is an extra field of the kind "FB" (caffe2/serialize/inline_container.cc).
    """
    length = -(begin + 4) % _ALIGNMENT
    return b"FB" + struct.pack("<H", length) + b"Z" * length


def _call(tensor: Tensor, key: int) -> bytes:
    """The call that makes a tensor, as opcodes of a pickle: of its storage, offset, shape, strides and two more."""
    if tensor.dtype not in _STORAGES:
        raise UnreadableTensor(f"A tensor of {tensor.dtype} has no storage that every torch loads.")
    kind = f"ctorch\n{_STORAGES[tensor.dtype]}\n".encode()
    storage = b"(" + _text("storage") + kind + _text(str(key)) + _text("cpu") + _integer(tensor.n) + b"tQ"
    strides, step = [0] * len(tensor.shape), 1
    for axis in reversed(range(len(tensor.shape))):
        strides[axis], step = step, step * tensor.shape[axis]
    view = _integer(0) + _tuple(tensor.shape) + _tuple(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tR"


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
