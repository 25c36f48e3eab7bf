"""Tensors as safetensors files, written from where they lie: no tensor is copied on the way, and one may grow on disk.

`save_file` of the package safetensors makes a copy of all that it writes, which for the codes of a whole index is as
much memory again as colbert-ai has for them.
"""

from __future__ import annotations

import json
import os

import torch

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ROOM = 256
"""Bytes before the elements: how many rows there are is known when the last one is written."""


class TensorFile:
    """A file of one tensor named `tensor`, to which rows are added until it is closed; only then it has its name.

    Args:
        path: half a file there would be taken for the tensor, so that until then it is `PATH.new`.
    """

    def __init__(self, path: str) -> None:
        self._path, self._dtype, self._bytes = path, None, 0
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._file = open(f"{path}.new", "wb")  # noqa: SIM115 - closed by `close` or `discard`
        self._file.seek(_ROOM)

    def add(self, rows: torch.Tensor) -> None:
        """Write elements after those that are there.

        Raises:
            TypeError: they are of another dtype, or of one that the format does not have.
        """
        if rows.dtype not in _CODES or self._dtype not in (None, rows.dtype):
            raise TypeError(f"{rows.dtype} after {self._dtype} cannot be written")
        self._dtype = rows.dtype
        flat = rows.detach().to("cpu").contiguous().reshape(-1)
        if len(flat):
            self._bytes += self._file.write(flat.view(torch.uint8).numpy().data)

    def close(self, shape: tuple[int, ...]) -> None:
        """Give all that was added a shape, and the file its name."""
        head = {"tensor": {"dtype": _CODES[self._dtype], "shape": shape, "data_offsets": [0, self._bytes]}}
        text = json.dumps(head).encode().ljust(_ROOM - 8)
        self._file.seek(0)
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.close()
        os.replace(f"{self._path}.new", self._path)

    def discard(self) -> None:
        """Delete the file."""
        self._file.close()
        os.remove(f"{self._path}.new")


def write_tensor(path: str, tensor: torch.Tensor) -> None:
    """Write a tensor as a file that is there whole or not at all."""
    file = TensorFile(path)
    file.add(tensor)
    file.close(tuple(tensor.shape))
