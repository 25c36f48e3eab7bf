"""Writes `.pt` files and ColBERT indexes without torch, in torch's own layout, and damaged ones on purpose."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.tensors import Array, Tensor

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
