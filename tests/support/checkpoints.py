"""The files of a tiny checkpoint, made without torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def safetensors(tensors: dict[str, list[int]]) -> bytes:
    """A safetensors file of float32 zeros with these shapes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def checkpoint_bytes(dim: int = 16, metadata: dict[str, object] | None = None) -> dict[str, bytes]:
    """The files of a tiny checkpoint."""
    return {
        "config.json": json.dumps({"model_type": "bert", "hidden_size": 8}).encode(),
        "artifact.metadata": json.dumps({"dim": dim, "doc_maxlen": 300} if metadata is None else metadata).encode(),
        "vocab.txt": b"[PAD]\n[UNK]\n",
        "model.safetensors": safetensors({"bert.x": [2, 3], "linear.weight": [16, 8]}),
    }


def write_checkpoint(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (checkpoint_bytes() if files is None else files).items():
        (folder / name).write_bytes(content)
    return folder
