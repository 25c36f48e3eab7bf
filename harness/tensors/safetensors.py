"""Reading and writing safetensors files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.errors import UnreadableTensor
from harness.files import map_file
from harness.tensors.dtypes import BY_CODE, DTYPES, Array, Dtype
from harness.tensors.mapped import check_shape, view_bytes
from harness.tensors.tensor import Tensor

_HEADER_LIMIT = 100 * 1024 * 1024  # the safetensors specification's own limit on its JSON header


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
    if not isinstance(code, str) or code not in BY_CODE:
        raise UnreadableTensor(f"{where}: {code!r} is not a dtype this harness knows.")
    dtype = BY_CODE[code]
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
        file.writelines(_safetensors_parts(tensors, metadata or {}))


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
