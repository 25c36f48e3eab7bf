"""Loops over integers of 8 to 32 bits that are written as vector code, as those of `vectors` are."""

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from harness.tensors.kernels import emit
from harness.tensors.kernels.emit import EIGHT
from harness.tensors.kernels.intrinsics import absolute, constant
from harness.tensors.kernels.vectors import AA, AB, ABS, AGAINST_ZERO, AHEAD, BB, BEYOND, DD, DIFFER, FARTHEST, LANES


@intrinsic
def whole(_context, a, b, size, slope, base, differences, sums, counts):
    """Everything that a block of integers of 8, 16 or 32 bits adds to the metrics.

    Args:
        a: one side.
        b: the reference.
        size: how many pairs, a multiple of `LANES` and at most `BLOCK`.
        slope: float64, the greatest relative difference that is known.
        base: `Bins.base` of `ABS_BINS`.
        differences: for `at_least`: of 8 bits uint8, filled with |a-b| with the top bit flipped, else uint16, filled
            with the histogram bin of each difference.
        sums: float64, from `ABS`, `AA`, `BB`, `AB` and `DD` on eight running sums each, added to.
        counts: int64, filled at `DIFFER`, `AGAINST_ZERO`, `FARTHEST` and `BEYOND`.
    """

    def generate(context, builder, signature, args):
        sides_and_filled = (*args[:2], *args[5:])
        kinds = (*signature.args[:2], *signature.args[5:])
        given = [emit.data(context, builder, kind, value) for kind, value in zip(kinds, sides_and_filled, strict=True)]
        loop = _bytes if a.dtype.bitwidth == 8 else _integers
        found, counted = loop(builder, a.dtype, given, *args[2:5])
        for k, place in enumerate((ABS, AA, BB, AB, DD)):
            total = builder.fadd(emit.load(builder, given[3], emit.I64(place), emit.F64, EIGHT), found[k])
            emit.store(builder, total, given[3], emit.I64(place))
        for place, value in zip((DIFFER, AGAINST_ZERO, FARTHEST, BEYOND), counted, strict=True):
            builder.store(value, builder.gep(given[4], [emit.I64(place)]))
        return context.get_dummy_value()

    return types.void(a, b, size, slope, base, differences, sums, counts), generate


def _bytes(builder, kind, given, size, slope, _base):
    """`whole` of 8 bits: sums are whole numbers, each in the first of its eight lanes; see there for the rest."""
    left, right, filled = given[:3]
    # Of a ratio of bytes the first 16 bits, of which 8 are before the point.
    scaled = builder.fmul(slope, emit.F64(256.0))
    lanes = LANES // 2  # half of what is usual, so that all that runs stays in sixteen registers
    bytes_, shorts = ir.VectorType(emit.I8, lanes), ir.VectorType(emit.I16, lanes // 2)
    signed, zero, eight = kind.signed, emit.every(emit.I8, lanes, 0), constant(shorts, 8)
    sign = "s" if signed else "u"
    slopes = emit.spread(builder, builder.fptoui(scaled, emit.I16), lanes // 2)

    def halves(value, arithmetic=False):
        """The even and the odd bytes, as 16-bit integers."""
        words = builder.bitcast(value, shorts)
        if arithmetic:
            return builder.ashr(builder.shl(words, eight), eight), builder.ashr(words, eight)
        return builder.and_(words, constant(shorts, 0xFF)), builder.lshr(words, eight)

    # Of a block a lane gets at most 64 numbers: 8 bits and 6 more, or 16 and 7.
    total, steeper = emit.variable(builder, shorts), emit.variable(builder, shorts)
    products = [emit.variable(builder, ir.VectorType(emit.I32, lanes // 4)) for _ in range(3)]
    farthest = emit.variable(builder, bytes_)
    differ, against_zero = (emit.variable(builder, emit.I64, 0) for _ in range(2))
    with cgutils.for_range_slice(builder, emit.I64(0), size, emit.I64(lanes), emit.I64) as (i, _):
        emit.fetch_line(builder, left, i, AHEAD)
        emit.fetch_line(builder, right, i, AHEAD)
        p, q = emit.load(builder, left, i, emit.I8, lanes), emit.load(builder, right, i, emit.I8, lanes)
        most, few = (emit.call(builder, emit.name_of(f"{sign}{which}", p), bytes_, p, q) for which in ("max", "min"))
        distance = builder.sub(most, few)
        emit.store(builder, builder.xor(distance, emit.every(emit.I8, lanes, 0x80)), filled, i)
        emit.keep(builder, farthest, distance)
        apart, null = builder.icmp_unsigned("!=", p, q), builder.icmp_unsigned("==", q, zero)
        emit.add_bits(builder, differ, apart)
        emit.add_bits(builder, against_zero, builder.and_(apart, null))
        size_of = emit.call(builder, emit.name_of("abs", q), bytes_, q, ir.IntType(1)(0)) if signed else q
        relative = builder.select(null, zero, distance)
        for x, y, d, r, s in zip(
            halves(p, signed), halves(q, signed), halves(distance), halves(relative), halves(size_of), strict=True
        ):
            builder.store(builder.add(builder.load(total), d), total)
            for place, pair in zip(products, ((x, x), (y, y), (x, y)), strict=True):
                builder.store(builder.add(builder.load(place), _pairwise(builder, *pair)), place)
            # The product's upper half: less than what the slope allows, by less than one. Where that is exceeded by
            # whole numbers, so may be the slope.
            allowed = _upper(builder, builder.shl(s, eight), slopes)
            excess = emit.call(builder, emit.name_of("usub.sat", r), shorts, r, allowed)
            builder.store(builder.or_(builder.load(steeper), excess), steeper)
    whole = [builder.zext(builder.load(total), ir.VectorType(emit.I32, lanes // 2)), *map(builder.load, products)]
    sum_abs, aa, bb, ab = (emit.total(builder, value) for value in whole)
    dd = builder.sub(builder.add(aa, bb), builder.add(ab, ab))
    nothing = ir.Constant(emit.EIGHT_F64, [0.0] * EIGHT)
    sums = [builder.insert_element(nothing, builder.sitofp(one, emit.F64), emit.I32(0))
            for one in (sum_abs, aa, bb, ab, dd)]  # fmt: skip
    reached, excess = builder.load(farthest), builder.load(steeper)
    most = emit.call(builder, emit.name_of("vector.reduce.umax", reached), emit.I8, reached)
    any_excess = emit.call(builder, emit.name_of("vector.reduce.or", excess), emit.I16, excess)
    counted = (
        builder.load(differ),
        builder.load(against_zero),
        builder.zext(most, emit.I64),
        builder.zext(any_excess, emit.I64),
    )
    return sums, counted


def _integers(builder, kind, given, size, slope, base):
    """`whole` of 16 and 32 bits, in float64, which holds them and their differences."""
    left, right, filled = given[:3]
    word = ir.IntType(kind.bitwidth)
    zero, nothing = ir.Constant(emit.EIGHT_F64, [0.0] * EIGHT), emit.every(word, EIGHT, 0)
    # A little smaller than it is, more than float64 rounds.
    line = emit.spread(builder, builder.fneg(builder.fmul(slope, emit.F64(1 - 2.0**-20))), EIGHT)
    first_bin = emit.spread(builder, builder.trunc(base, emit.I32), 2 * EIGHT)
    totals = [emit.variable(builder, emit.EIGHT_F64) for _ in range(6)]
    steepest = emit.variable(builder, emit.EIGHT_F64)
    differ, against_zero = (emit.variable(builder, emit.I64, 0) for _ in range(2))
    with cgutils.for_range_slice(builder, emit.I64(0), size, emit.I64(2 * EIGHT), emit.I64) as (i, _):
        found = []
        for start in (0, EIGHT):
            here = builder.add(i, emit.I64(start))
            p, q = (emit.load(builder, side, here, word, EIGHT) for side in (left, right))
            apart, null = builder.icmp_unsigned("!=", p, q), builder.icmp_unsigned("==", q, nothing)
            emit.add_bits(builder, differ, apart)
            emit.add_bits(builder, against_zero, builder.and_(apart, null))
            x, y = ((builder.sitofp if kind.signed else builder.uitofp)(side, emit.EIGHT_F64) for side in (p, q))
            e = emit.summed(builder, x, y, totals)
            found.append(e)
            relative = builder.select(null, zero, e)
            emit.greatest(
                builder,
                steepest,
                emit.call(builder, emit.name_of("fma", y), emit.EIGHT_F64, line, absolute(builder, y), relative),
            )
        emit.store(
            builder,
            builder.trunc(emit.bins_of(builder, found, first_bin), ir.VectorType(emit.I16, 2 * EIGHT)),
            filled,
            i,
        )
    most, excess = (emit.call(builder, "llvm.vector.reduce.fmax.v8f64", emit.F64, builder.load(one))
                    for one in (totals[5], steepest))  # fmt: skip
    beyond = builder.fcmp_ordered(">", excess, emit.F64(0.0))
    counted = (
        builder.load(differ),
        builder.load(against_zero),
        builder.fptoui(most, emit.I64),
        builder.zext(beyond, emit.I64),
    )
    return [builder.load(total) for total in totals[:5]], counted


def _pairwise(builder, x, y):
    """Products of 16-bit integers that fit 16 bits, each added to its neighbour's in 32 bits."""
    wide = ir.VectorType(emit.I32, x.type.count)
    product = builder.mul(builder.sext(x, wide), builder.sext(y, wide))
    return builder.add(*(emit.pick(builder, product, product, range(first, x.type.count, 2)) for first in (0, 1)))


def _upper(builder, x, y):
    """The upper halves of the products of unsigned 16-bit integers."""
    wide = ir.VectorType(emit.I32, x.type.count)
    product = builder.mul(builder.zext(x, wide), builder.zext(y, wide))
    return builder.trunc(builder.lshr(product, constant(wide, 16)), x.type)
