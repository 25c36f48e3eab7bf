"""Writes `.pt` files and ColBERT indexes without torch, in torch's own layout, and damaged ones on purpose."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.tensors.dtypes import Array
from harness.tensors.tensor import Tensor

_CLASSES = {
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "uint8": "ByteStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def rebuild(
    key: str, storage: str, numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> bytes:
    """The opcodes of one tensor, whatever they claim."""
    reference = tuple_of(
        text("storage"), b"ctorch\n" + storage.encode() + b"\n", text(key), text("cpu"), integer(numel)
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + reference
        + b"Q"
        + integer(offset)
        + tuple_of(*map(integer, size))
        + tuple_of(*map(integer, stride))
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def write_archive(path: Path, pickle: bytes, storages: dict[str, bytes], **members: bytes) -> None:
    """A zip file as `torch.save` lays it out."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", b"3\n")


def write_pt(path: Path, *tensors: Tensor | Array) -> None:
    """One tensor, or a tuple of them."""
    storages, parts = {}, []
    for key, one in enumerate(tensors):
        tensor = one if isinstance(one, Tensor) else Tensor.of(one)
        storages[str(key)] = bytes(tensor.buffer())
        stride: list[int] = []
        step = 1
        for size in reversed(tensor.shape):
            stride.insert(0, step)
            step *= max(size, 1)
        parts.append(rebuild(str(key), _CLASSES[tensor.dtype], tensor.n, tensor.shape, tuple(stride)))
    body = parts[0] if len(parts) == 1 else tuple_of(*parts)
    write_archive(path, b"\x80\x02" + body + b".", storages)


def pack(buckets: Array, nbits: int) -> Array:
    """Bucket numbers (rows, dim) to bytes, as colbert-ai's `binarize` does."""
    bits = (buckets[..., None] >> np.arange(nbits)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(buckets.shape[0], buckets.shape[1] * nbits), axis=1)


def write_index(
    folder: Path, *, seed: int = 0, chunks: int = 2, passages: int = 20, dim: int = 32, nbits: int = 2, k: int = 16
) -> dict[str, Any]:
    """A small ColBERT index with every file that colbert-ai writes; returns its arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    centroids = rng.standard_normal((k, dim))
    centroids = (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).astype(np.float16)
    cutoffs = np.linspace(-0.05, 0.05, 2**nbits - 1).astype(np.float32)
    weights = np.linspace(-0.07, 0.07, 2**nbits).astype(np.float32)
    arrays: dict[str, Any] = {"centroids": centroids}
    write_pt(folder / "centroids.pt", centroids)
    write_pt(folder / "avg_residual.pt", np.array(0.03, np.float32))
    write_pt(folder / "buckets.pt", cutoffs, weights)
    lists: dict[int, set[int]] = {}
    passage = embedding = 0
    for chunk in range(chunks):
        doclens = rng.integers(3, 9, passages).tolist()
        total = sum(doclens)
        codes = rng.integers(0, k, total).astype(np.int32)
        buckets = rng.integers(0, 2**nbits, (total, dim))
        arrays[f"{chunk}.codes"], arrays[f"{chunk}.buckets"] = codes, buckets
        write_pt(folder / f"{chunk}.codes.pt", codes)
        write_pt(folder / f"{chunk}.residuals.pt", pack(buckets, nbits))
        (folder / f"doclens.{chunk}.json").write_text(json.dumps(doclens))
        record = {"passage_offset": passage, "num_passages": passages, "num_embeddings": total}
        (folder / f"{chunk}.metadata.json").write_text(json.dumps(record | {"embedding_offset": embedding}))
        owners = np.repeat(np.arange(passage, passage + passages), doclens)
        for code, owner in zip(codes.tolist(), owners.tolist(), strict=True):
            lists.setdefault(code, set()).add(owner)
        passage, embedding = passage + passages, embedding + total
    arrays["lists"] = lists
    write_ivf(folder, lists, k)
    config = {"nbits": nbits, "dim": dim, "root": str(folder), "index_name": folder.name}
    metadata = {"config": config, "num_chunks": chunks, "num_partitions": k, "num_embeddings": embedding}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "plan.json").write_text(json.dumps({"config": config, "num_chunks": chunks}))
    return arrays


def write_ivf(folder: Path, lists: dict[int, set[int]], k: int, padding: int | None = None) -> None:
    """ivf.pid.pt with colbert-ai's zeros at the end."""
    lengths = np.array([len(lists.get(c, ())) for c in range(k)], np.int64)
    flat = [pid for c in range(k) for pid in sorted(lists.get(c, ()))]
    flat += [0] * (int(lengths.max(initial=0)) if padding is None else padding)
    write_pt(folder / "ivf.pid.pt", np.array(flat, np.int32), lengths)


@dataclass(frozen=True)
class Member:
    """A member of a zip file, with whatever its records claim; None is what is true."""

    name: bytes
    content: bytes
    stored: bytes | None = None  # what is in the file, and how
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    extra: bytes = b""
    disk: int = 0
    attributes: int = 0
    offset: int | None = None
    local_signature: bytes = b"PK\x03\x04"
    local_name: bytes | None = None
    local_extra: bytes = b""
    local_padding: int | None = None
    local_size: int | None = None


@dataclass(frozen=True)
class Ending:
    """The end of a zip file, with whatever it claims; None is what is true."""

    zip64: bool = True
    count: int | None = None
    here: int | None = None
    size: int | None = None
    begin: int | None = None
    small: tuple[int, int, int] | None = None  # count, size and begin as the record for small archives has them
    disk: int = 0
    disks: int = 1
    locator: int | None = None
    length: int = 44
    comment: bytes = b""
    comment_length: int | None = None


def zip_bytes(members: Sequence[Member], ending: Ending | None = None) -> bytes:
    """A zip file, record by record, as PKWARE's APPNOTE has them: the archive's own writers tell no lies."""
    ending = ending or Ending()
    raw, directory = b"", b""
    for one in members:
        stored = one.content if one.stored is None else one.stored
        size = len(one.content) if one.size is None else one.size
        packed = len(stored) if one.packed is None else one.packed
        crc = zlib.crc32(one.content) if one.crc is None else one.crc
        local = one.name if one.local_name is None else one.local_name
        padding = len(one.local_extra) if one.local_padding is None else one.local_padding
        offset = len(raw) if one.offset is None else one.offset
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 0, 0, one.flags, one.method, 0, 0, crc, packed, size, len(one.name),
            len(one.extra), 0, one.disk, 0, one.attributes, offset,
        ) + one.name + one.extra  # fmt: skip
        local_size = size if one.local_size is None else one.local_size
        raw += struct.pack(
            "<4s5H3I2H", one.local_signature, 0, one.flags, one.method, 0, 0, crc, local_size, local_size, len(local),
            padding,
        ) + local + one.local_extra + stored  # fmt: skip
    count = len(members) if ending.count is None else ending.count
    here = count if ending.here is None else ending.here
    size = len(directory) if ending.size is None else ending.size
    begin = len(raw) if ending.begin is None else ending.begin
    raw += directory
    if ending.zip64:
        place = len(raw) if ending.locator is None else ending.locator
        raw += struct.pack(
            "<4sQ2H2I4Q", b"PK\x06\x06", ending.length, 0, 0, ending.disk, ending.disk, here, count, size, begin
        )
        raw += struct.pack("<4sIQI", b"PK\x06\x07", 0, place, ending.disks)
    small = ending.small or (count, size, begin)
    comment = len(ending.comment) if ending.comment_length is None else ending.comment_length
    raw += struct.pack(
        "<4s4H2IH", b"PK\x05\x06", ending.disk, ending.disk, here if ending.small is None else small[0], *small, comment
    )
    return raw + ending.comment
