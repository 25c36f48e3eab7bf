"""torch's dtypes: their names, how each is held here, and their names in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


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
BY_CODE = {dtype.code: dtype for dtype in DTYPES.values() if dtype.code is not None}
BY_NUMPY = {np.dtype(dtype.storage): dtype for dtype in DTYPES.values() if np.dtype(dtype.storage).name == dtype.name}
