"""A small ColBERT index on disk, as colbert-ai and `torch.save` write it, made without torch."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_STORAGES = {"float16": "Half", "float32": "Float", "int32": "Int", "int64": "Long", "uint8": "Byte"}


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def _tensor(array: np.ndarray[Any, Any], key: int) -> bytes:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = b"(" + _text("storage") + f"ctorch\n{_STORAGES[array.dtype.name]}Storage\n".encode()
    storage += _text(str(key)) + _text("cpu") + b"J" + struct.pack("<i", array.size) + b"tQ"
    view = b"K\0" + _tuple(array.shape) + _tuple(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tR"


def write_pt(path: Path, *arrays: np.ndarray[Any, Any]) -> None:
    """Save one tensor, or a tuple of two or more."""
    arrays = tuple(np.ascontiguousarray(array).reshape(array.shape) for array in arrays)
    body = b"".join(_tensor(array, key) for key, array in enumerate(arrays))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + (body if len(arrays) == 1 else b"(" + body + b"t") + b".")
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def index_arrays(seed: int = 0, chunks: int = 2, dim: int = 8) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a small ColBERT index, with colbert-ai's dtypes: 4 centroids, 2 bits, 10 embeddings a chunk."""
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for chunk in range(chunks):
        arrays[f"{chunk}.codes"] = random.integers(0, 4, 10).astype(np.int32)
        arrays[f"{chunk}.residuals"] = random.integers(0, 256, (10, dim // 4)).astype(np.uint8)
    arrays["centroids"] = random.standard_normal((4, dim)).astype(np.float16)
    arrays["avg_residual"] = np.array(0.25, dtype=np.float16)
    arrays["bucket_cutoffs"] = np.sort(random.standard_normal(3)).astype(np.float32)
    arrays["bucket_weights"] = np.sort(random.standard_normal(4)).astype(np.float32)
    arrays["ivf"] = np.arange(4 * chunks, dtype=np.int64)
    arrays["ivf_lengths"] = np.full(4, chunks, dtype=np.int64)
    return arrays


def write_index(folder: Path, arrays: dict[str, np.ndarray[Any, Any]] | None = None, chunks: int = 2) -> Path:
    """Write a ColBERT index directory, five passages of two embeddings a chunk."""
    arrays = index_arrays(chunks=chunks) if arrays is None else arrays
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {"buckets": ("bucket_cutoffs", "bucket_weights"), "ivf.pid": ("ivf", "ivf_lengths")}
    for name, array in arrays.items():
        if not any(name in pair for pair in pairs.values()):
            write_pt(folder / f"{name}.pt", array)
    for file, (first, second) in pairs.items():
        write_pt(folder / f"{file}.pt", arrays[first], arrays[second])
    for chunk in range(chunks):
        (folder / f"doclens.{chunk}.json").write_text(json.dumps([2] * 5))
        (folder / f"{chunk}.metadata.json").write_text(json.dumps({"num_embeddings": 10}))
    (folder / "metadata.json").write_text(json.dumps({"num_chunks": chunks, "num_embeddings": 10 * chunks}))
    (folder / "plan.json").write_text(json.dumps({"num_chunks": chunks}))
    return folder
