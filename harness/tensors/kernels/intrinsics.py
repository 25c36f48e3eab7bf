"""Single operations that numba has not, or not in the width that is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from harness.tensors.kernels.compiler import bare

_HALF, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
INFINITY = {types.uint16: 0x7C00, types.int16: 0x7F80, types.uint32: 0x7F800000, types.uint64: 0x7FF0000000000000}
"""float16, bfloat16, float32, float64: bits of infinity, the smallest magnitude that is not finite."""


def like(value: Any, element: Any) -> Any:  # noqa: ANN401 - llvmlite has no types
    """LLVM's type of a value of such elements: of one, or of as many as a vector has."""
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


def constant(kind: Any, number: Any) -> Any:  # noqa: ANN401
    """A number of this type, in every lane of a vector."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, number)] * kind.count)
    return ir.Constant(kind, number)


def magnitude(builder, bits):
    """Bits without the sign."""
    width = getattr(bits.type, "element", bits.type).width
    return builder.and_(bits, constant(bits.type, (1 << (width - 1)) - 1))


def absolute(builder, value):
    """Absolute value of float32 or float64, as one bit operation."""
    integer = like(value, _I64 if getattr(value.type, "element", value.type) is _F64 else _I32)
    return builder.bitcast(magnitude(builder, builder.bitcast(value, integer)), value.type)


def ordered(builder, bits):
    """Integers that sort like the numbers, +0 and -0 alike; the distance of two finite ones fits, unsigned."""
    size, zero = magnitude(builder, bits), constant(bits.type, 0)
    return builder.select(builder.icmp_signed("<", bits, zero), builder.sub(zero, size), size)


def decode(builder, kind, bits):
    """Bits as a float32, or a float64 for 64-bit ones; exact."""
    if kind == types.uint16:
        return builder.fpext(builder.bitcast(bits, like(bits, _HALF)), like(bits, _F32))
    if kind == types.int16:
        wide = builder.zext(bits, like(bits, _I32))
        return builder.bitcast(builder.shl(wide, constant(wide.type, 16)), like(bits, _F32))
    return builder.bitcast(bits, like(bits, _F32 if kind == types.uint32 else _F64))


def _round(builder, kind, value):
    """A finite float32 rounded to nearest even, as bits of the 16-bit format."""
    if kind == types.uint16:
        return builder.bitcast(builder.fptrunc(value, _HALF), _I16)
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    return builder.trunc(builder.lshr(builder.add(builder.add(bits, _I32(0x7FFF)), odd), _I32(16)), _I16)


@intrinsic
def load(_context, bits):
    """The number that bits stand for."""
    result = types.float64 if bits == types.uint64 else types.float32
    return result(bits), lambda _c, builder, _s, args: decode(builder, bits, args[0])


@intrinsic
def is_special(_context, bits):
    """1 for NaN and infinities, else 0."""

    def generate(_c, builder, _s, args):
        limit = constant(args[0].type, INFINITY[bits])
        return builder.zext(builder.icmp_unsigned(">=", magnitude(builder, args[0]), limit), _I32)

    return types.int32(bits), generate


@intrinsic
def bits_apart(_context, a, b):
    """1 where the bits differ, else 0."""
    return types.int32(a, b), lambda _c, builder, _s, args: builder.zext(builder.icmp_unsigned("!=", *args), _I32)


@intrinsic
def either(_context, a, b):
    """Bitwise or in 32 bits; numba's own would widen to 64 and halve the lanes."""
    return types.int32(a, b), lambda _c, builder, _s, args: builder.or_(*args)


@intrinsic
def plus(_context, a, b):
    """Sum in 32 bits."""
    return types.int32(a, b), lambda _c, builder, _s, args: builder.add(*args)


@intrinsic
def ulps(_context, a, b):
    """How many representable numbers lie between two finite ones; +0 and -0 are the same number."""
    result, integer = (types.uint64, _I64) if a.bitwidth > 16 else (types.uint32, _I32)

    def generate(_c, builder, _s, args):
        x, y = (ordered(builder, value) for value in args)
        found = builder.select(builder.icmp_signed("<", x, y), builder.sub(y, x), builder.sub(x, y))
        return found if a.bitwidth == 64 else builder.zext(found, integer)

    return result(a, b), generate


@intrinsic
def greater(_context, a, b):
    """The greater of two unsigned integers, without widening them."""

    def generate(_c, builder, _s, args):
        return builder.select(builder.icmp_unsigned(">", *args), *args)

    return a(a, b), generate


@intrinsic
def not_close(_context, a, b, rtol, atol):
    """1 where `torch.isclose` says no about two finite numbers, computed as torch computes it.

    ATen's `isclose` evaluates `(self - other).abs() <= atol + (rtol * other).abs()` operator by operator; see
    `harness.tensors.passes.not_close` for the source and for what an operator on a 16-bit float rounds. `atol` comes in
    rounded to the dtype, `rtol` to float32 (float64 for 64 bits). The smaller-than comparison of two
    positive floats is that of their bits. `isfinite(actual)` fails where the difference overflows.
    """

    def generate(_c, builder, _s, args):
        x, y = decode(builder, a, args[0]), decode(builder, a, args[1])
        product, difference = builder.fmul(y, args[2]), builder.fsub(x, y)
        if a.bitwidth == 16:
            product = decode(builder, a, magnitude(builder, _round(builder, a, product)))
            allowed = _round(builder, a, builder.fadd(product, args[3]))
            actual = magnitude(builder, _round(builder, a, difference))
        else:
            word = args[0].type
            allowed = builder.bitcast(builder.fadd(absolute(builder, product), args[3]), word)
            actual = builder.bitcast(absolute(builder, difference), word)
        beyond = builder.icmp_unsigned(">", actual, allowed)
        overflow = builder.icmp_unsigned(">=", actual, constant(actual.type, INFINITY[a]))
        return builder.zext(builder.or_(beyond, overflow), _I32)

    return types.int32(a, b, rtol, atol), generate


@intrinsic
def size(_context, value):
    """Absolute value of a float64."""
    return types.float64(types.float64), lambda _c, builder, _s, args: absolute(builder, args[0])


@intrinsic
def bits(_context, value):
    """Bits of a float64; for those that are not negative they sort like the numbers."""
    return types.int64(types.float64), lambda _c, builder, _s, args: builder.bitcast(args[0], _I64)


def _bin(builder, bits, shift, base):
    """`harness.tensors.passes.Bins.of` a number by its bits."""
    place = builder.sub(builder.lshr(bits, shift), base)
    zero = constant(place.type, 0)
    return builder.select(builder.icmp_signed("<", place, zero), zero, place)


@intrinsic
def bin_of(_context, value, shift, base):
    """The bin of one float64 that is not negative."""

    def generate(_c, builder, _s, args):
        return builder.trunc(_bin(builder, builder.bitcast(args[0], _I64), *args[1:]), _I32)

    return types.uint32(types.float64, types.int64, types.int64), generate


@intrinsic
def ulp_bin(_context, distance, shift, base):
    """The bin of a distance; those of 16-bit formats are exact in float32, which has twice the lanes."""

    def generate(_c, builder, _s, args):
        if distance.bitwidth == 32:
            # float32 has 29 mantissa bits fewer, and its exponents begin 896 lower.
            shift = builder.trunc(builder.sub(args[1], _I64(29)), _I32)
            base = builder.trunc(builder.sub(args[2], builder.shl(_I64(896), builder.sub(_I64(52), args[1]))), _I32)
            return _bin(builder, builder.bitcast(builder.uitofp(args[0], _F32), _I32), shift, base)
        return builder.trunc(_bin(builder, builder.bitcast(builder.uitofp(args[0], _F64), _I64), *args[1:]), _I32)

    return types.uint32(distance, types.int64, types.int64), generate


@intrinsic
def beyond(_context, ratio, reference, excess):
    """1 where excess / reference > ratio, without a division: one rounding, so the sign is exact.

    It is not where the rounding underflows: 1 there too, and the caller divides.
    """

    def generate(_c, builder, _s, args):
        rest = builder.fma(builder.fneg(args[0]), args[1], args[2])
        tiny = builder.and_(
            builder.fcmp_ordered(">", args[2], _F64(0.0)), builder.fcmp_ordered("<", args[2], _F64(2.0**-960))
        )
        return builder.zext(builder.or_(builder.fcmp_ordered(">", rest, _F64(0.0)), tiny), _I32)

    return types.int32(types.float64, types.float64, types.float64), generate


@intrinsic
def distance(_context, a, b):
    """|a - b| in the numbers' own width."""
    return a(a, b), lambda _c, builder, _s, args: absolute(builder, builder.fsub(*args))


@intrinsic
def above(_context, ratio, reference, excess):
    """1 where excess > ratio * |reference|, in the numbers' own width; never where the ratio is infinite."""

    def generate(_c, builder, _s, args):
        rest = builder.fma(builder.fneg(args[0]), absolute(builder, args[1]), args[2])
        return builder.zext(builder.fcmp_ordered(">", rest, constant(rest.type, 0.0)), _I32)

    return types.int32(ratio, reference, excess), generate


@intrinsic
def gap(_context, a, b):
    """Distance of two 64-bit integers as a float64; exact before the one rounding to float64."""

    def generate(_c, builder, _s, args):
        less = builder.icmp_signed if a.signed else builder.icmp_unsigned
        x, y = args
        return builder.uitofp(builder.select(less("<", x, y), builder.sub(y, x), builder.sub(x, y)), _F64)

    return types.float64(a, b), generate


@bare
def screen_slope(ratio):
    """A ratio as a screen's slope: a little smaller, and finite in float32, unless it cannot be raised any more."""
    return min(ratio * (1 - 2.0**-18), 2.0**127) if ratio < np.inf else ratio
