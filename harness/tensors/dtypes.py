"""torch's dtypes: their names, how each is held here, their names in files, and what their bits stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Float64s = np.ndarray[Any, np.dtype[np.float64]]


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


def decode(values: Array, dtype: str) -> Array:
    """Elements of `Tensor.data` as float64 (complex128 for complex dtypes); exact up to 2**53 for integers.

    Raises:
        ValueError: the dtype is one of the float8 formats, which only `byte_values` decodes.
    """
    with np.errstate(invalid="ignore"):  # converting a signalling NaN raises the processor's flag
        if dtype == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if dtype == "complex32":
            halves = values.reshape(-1).view(np.float16)
            return halves.astype(np.float32).view(np.complex64).astype(np.complex128)
        if dtype.startswith("float8"):
            return byte_values(dtype)[values]
        return values.astype(np.complex128 if DTYPES[dtype].kind == "complex" else np.float64)


def count_nan(raw: Array, dtype: str, size: int = 1 << 20) -> int:
    """How many elements in these bytes, which hold whole ones, are NaN; a complex one is if either part is.

    `size` is how many bytes are looked at at once; work arrays of this one stay in a cache.
    """
    kind = DTYPES[dtype]
    if kind.kind not in ("float", "complex"):
        return 0
    if kind.itemsize == 1:
        return int(np.bincount(raw, minlength=256)[np.isnan(byte_values(dtype))].sum())
    half = {"float16": 0x7C00, "bfloat16": 0x7F80, "complex32": 0x7C00}.get(dtype)
    parts = 2 if kind.kind == "complex" else 1
    total = 0
    for start in range(0, raw.size, size):
        part = raw[start : start + size]
        if half is not None:
            nan = (part.view("<u2") & np.uint16(0x7FFF)) > half
        else:
            nan = np.isnan(part.view(f"<f{kind.itemsize // parts}"))
        total += int(np.count_nonzero(nan.reshape(-1, parts).any(axis=1) if parts == 2 else nan))
    return total


def judged(dtype: str) -> bool:
    """Whether `torch.allclose` has a verdict for a float or complex dtype: it raises for float8 and complex32."""
    return not dtype.startswith("float8") and dtype != "complex32"


def byte_values(dtype: str) -> Float64s:
    """What each of the 256 bit patterns of a one-byte dtype stands for, as float64.

    The float8 formats are those of the OCP 8-bit floating point specification and, for the fnuz ones, of
    https://arxiv.org/abs/2206.02915; e8m0fnu is a power of two (OCP microscaling formats).
    """
    bits = np.arange(256)
    if dtype == "int8":
        return bits.astype(np.uint8).view(np.int8).astype(np.float64)
    if dtype in ("uint8", "bool"):
        return (bits if dtype == "uint8" else bits != 0).astype(np.float64)
    if dtype == "float8_e8m0fnu":
        return np.where(bits == 255, np.nan, np.ldexp(1.0, bits - 127))
    mantissa_bits = 3 if "e4m3" in dtype else 2
    bias = {"float8_e4m3fn": 7, "float8_e5m2": 15, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 16}[dtype]
    sign = np.where(bits & 0x80, -1.0, 1.0)
    exponent = (bits & 0x7F) >> mantissa_bits
    mantissa = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = sign * np.where(
        exponent == 0, np.ldexp(mantissa, 1 - bias), np.ldexp(1.0 + mantissa, exponent.astype(np.int64) - bias)
    )
    if dtype == "float8_e4m3fn":
        values[[0x7F, 0xFF]] = np.nan
    elif dtype == "float8_e5m2":
        values[[0x7C, 0xFC]] = np.inf, -np.inf
        values[[*range(0x7D, 0x80), *range(0xFD, 0x100)]] = np.nan
    else:
        values[0x80] = np.nan
    return values
