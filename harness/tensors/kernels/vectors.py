"""Loops over floats of 16 and 32 bits that are written as vector code, and over any bins: no compiler finds them.

Each function here is one loop that a kernel calls on a block that stays in the first-level cache, 64 bytes at a time
unless it says otherwise. LLVM turns the generic vectors into whatever the processor has; nothing in here names an
instruction set. Blocks are padded with equal zeros to a multiple of `LANES`.
"""

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from harness.tensors.kernels import emit
from harness.tensors.kernels.compiler import FEATURES, bare
from harness.tensors.kernels.emit import EIGHT
from harness.tensors.kernels.intrinsics import INFINITY, absolute, decode, magnitude, ordered

LANES = 64
"""The most elements per step; blocks are multiples of it, and buffers that are compressed into have as many more."""
AHEAD = 8192
"""Elements between what is worked on and what is fetched; processors fetch ahead by themselves, but not far enough."""
ABS, AA, BB, AB, DD, GREATEST = range(0, 6 * EIGHT, EIGHT)
"""Where `sums` has the running sums of |a-b|, aa, bb, ab and (a-b)(a-b), and `dense`'s the greatest |a-b|."""
DIFFER, AGAINST_ZERO, FARTHEST, BEYOND = range(4)
"""Where `counts` has values that differ, those whose reference is zero, and the greatest ULP distance or difference.

At `BEYOND`, which only `whole` has, is whether any relative difference may be greater than is known."""
RELATIVE, FIRST_RULE, LINES = 0, 1, 3
"""Where `dense`'s `lines` has the relative difference's and the rules', and how many there are."""


@intrinsic
def fetch(_context, a, index):
    """Ask for the cache line that holds an element, or would hold it were the array longer."""

    def generate(context, builder, _s, args):
        emit.fetch_line(builder, emit.data(context, builder, a, args[0]), args[1], 0)
        return context.get_dummy_value()

    return types.void(a, index), generate


def _at_least(together):
    """`at_least` for as many edges at once."""

    @intrinsic
    def count(_context, values, size, edges, first, counts):
        def generate(context, builder, _s, args):
            source, limits, counted = (emit.data(context, builder, kind, value) for kind, value in zip(
                (values, edges, counts), (args[0], args[2], args[4]), strict=True))  # fmt: skip
            word, lanes = emit.word(values)
            places = [builder.add(args[3], emit.I64(k)) for k in range(together)]
            from_here = [emit.spread(builder, builder.load(builder.gep(limits, [place])), lanes) for place in places]
            # Where masks have registers of their own, counting their bits is the cheapest; else lanes count.
            masks = FEATURES.get("avx512bw")
            below = [emit.variable(builder, emit.I64 if masks else edge.type, 0) for edge in from_here]
            with cgutils.for_range_slice(builder, emit.I64(0), args[1], emit.I64(lanes), emit.I64) as (i, _):
                value = emit.load(builder, source, i, word, lanes)
                for edge, found in zip(from_here, below, strict=True):
                    less = builder.icmp_signed("<", value, edge)
                    if masks:
                        emit.add_bits(builder, found, less)
                    else:
                        builder.store(builder.sub(builder.load(found), builder.sext(less, edge.type)), found)
            for place, found in zip(places, map(builder.load, below), strict=True):
                total = found if masks else emit.total(builder, builder.zext(found, ir.VectorType(emit.I32, lanes)))
                here = builder.gep(counted, [place])
                builder.store(builder.add(builder.load(here), builder.sub(args[1], total)), here)
            return context.get_dummy_value()

        return types.void(values, size, edges, first, counts), generate

    return count


_at_least_4, _at_least_2 = _at_least(4), _at_least(2)


@bare
def at_least(values, size, edges, counts):
    """Add to int64 `counts` how many of the first `size` values are at least each edge, of which the number is even.

    `size` is a multiple of `LANES` and at most `BLOCK`, and values and edges are of one dtype. Integers are compared as
    signed ones, for which processors have an instruction; some edges at once, so that values are loaded less often.
    """
    fours = edges.size // 4 * 4
    for k in range(0, fours, 4):
        _at_least_4(values, size, edges, k, counts)
    if fours < edges.size:
        _at_least_2(values, size, edges, fours, counts)


@intrinsic
def survey(_context, a, b, size):
    """How many of the first `size` pairs differ in their bits, and whether anything in them is not finite.

    Also asks for the elements `AHEAD`, which other loops over the same block then find in the cache.
    """

    def generate(context, builder, signature, args):
        left, right = emit.data(context, builder, a, args[0]), emit.data(context, builder, b, args[1])
        word, lanes = emit.word(a)
        differ, special = emit.variable(builder, emit.I64, 0), emit.variable(builder, ir.IntType(lanes), 0)
        limit = emit.every(word, lanes, INFINITY[a.dtype])
        with cgutils.for_range_slice(builder, emit.I64(0), args[2], emit.I64(lanes), emit.I64) as (i, _):
            emit.fetch_line(builder, left, i, AHEAD)
            emit.fetch_line(builder, right, i, AHEAD)
            p, q = emit.load(builder, left, i, word, lanes), emit.load(builder, right, i, word, lanes)
            emit.add_bits(builder, differ, builder.icmp_unsigned("!=", p, q))
            wild = [builder.icmp_unsigned(">=", magnitude(builder, side), limit) for side in (p, q)]
            bits = builder.bitcast(builder.or_(*wild), ir.IntType(lanes))
            builder.store(builder.or_(builder.load(special), bits), special)
        parts = [builder.load(differ), builder.zext(builder.load(special), emit.I64)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(types.int64, 2)(a, b, size), generate


@intrinsic
def split(_context, a, b, size, left, right, place, sums):
    """Copy the pairs whose bits differ, and where they are; add the squares of the others to `sums`' first eight.

    Returns how many were copied. `left`, `right` and `place`, 16-bit integers, are longer than `size` by `LANES`.
    """

    def generate(context, builder, _s, args):
        pointers = [emit.data(context, builder, k, v) for k, v in zip(
            (a, b, left, right, place, sums), (args[0], args[1], *args[3:]), strict=True)]  # fmt: skip
        copied = emit.variable(builder, emit.I64, 0)
        totals = [emit.variable(builder, emit.EIGHT_F64) for _ in range(2)]
        word, lanes = emit.word(a)
        steps = ir.Constant(ir.VectorType(emit.I16, lanes), list(range(lanes)))
        with cgutils.for_range_slice(builder, emit.I64(0), args[2], emit.I64(lanes), emit.I64) as (i, _):
            p, q = emit.load(builder, pointers[0], i, word, lanes), emit.load(builder, pointers[1], i, word, lanes)
            apart = builder.icmp_unsigned("!=", p, q)
            here = builder.add(emit.spread(builder, builder.trunc(i, emit.I16), lanes), steps)
            index = emit.add_bits(builder, copied, apart)
            for value, pointer in zip((p, q, here), pointers[2:5], strict=True):
                emit.squeeze(builder, value, apart, pointer, index)
            same = builder.select(apart, emit.every(word, lanes, 0), p)
            for start in range(0, lanes, 16):
                x = decode(builder, a.dtype, emit.pick(builder, same, same, range(start, start + 16)))
                for k in range(2):
                    wide = builder.fpext(emit.pick(builder, x, x, range(8 * k, 8 * k + 8)), emit.EIGHT_F64)
                    emit.add_product(builder, totals[k], wide, wide)
        total = builder.fadd(builder.load(totals[0]), builder.load(totals[1]))
        emit.store(
            builder,
            builder.fadd(emit.load(builder, pointers[5], emit.I64(0), emit.F64, 8), total),
            pointers[5],
            emit.I64(0),
        )
        return builder.load(copied)

    return types.int64(a, b, size, left, right, place, sums), generate


@intrinsic
def dense(_context, a, b, size, x, y, lines, tiny, base, bins, distances, sums, counts):
    """Everything that a block of finite pairs adds to the metrics.

    Args:
        a: bits of one side, uint16 for float16, int16 for bfloat16, uint32 for float32.
        b: the reference's.
        size: how many pairs, a multiple of `LANES`.
        x: float32, for the numbers of `a` in some order, unless they are float32 already.
        y: float32, for those of `b` in the same.
        lines: float32; `LINES` slopes, replaced by the greatest |a-b| - slope * |b| that each met, or zero.
        tiny: float32, added to differences that are not zero, except of float16, so that underflow cannot hide one.
        base: `Bins.base` of `ABS_BINS`.
        bins: uint16, filled with the histogram bin of each difference.
        distances: of the bits' width, filled with the ULP distance of each pair for `at_least`: the top bit is flipped.
        sums: float64, from `ABS`, `AA`, `BB`, `AB` and `DD` on eight running sums each, added to; `GREATEST` is filled.
        counts: int64, filled at `DIFFER`, `AGAINST_ZERO` and `FARTHEST`.
    """

    def generate(context, builder, _s, args):
        left, right = emit.data(context, builder, a, args[0]), emit.data(context, builder, b, args[1])
        word, lanes = emit.word(a)
        given = {name: emit.data(context, builder, kind, value) for name, kind, value in zip(
            ("x", "y", "lines", "bins", "distances", "sums", "counts"), (x, y, lines, bins, distances, sums, counts),
            (*args[3:6], *args[8:]), strict=True)}  # fmt: skip
        numbers = [given["x"], given["y"]]
        if word.width == 32:
            numbers = [builder.bitcast(side, emit.F32.as_pointer()) for side in (left, right)]
        slopes = [emit.spread(builder, builder.fneg(builder.load(builder.gep(given["lines"], [emit.I64(k)]))), 16)
                  for k in range(LINES)]  # fmt: skip
        least = emit.spread(builder, args[6], 16)
        first_bin = emit.spread(builder, builder.trunc(args[7], emit.I32), 16)
        totals = [emit.variable(builder, emit.EIGHT_F64) for _ in range(6)]
        worst = [emit.variable(builder, ir.VectorType(emit.F32, 16)) for _ in range(LINES)]
        farthest = emit.variable(builder, ir.VectorType(word, lanes))
        differ, against_zero = (emit.variable(builder, emit.I64, 0) for _ in range(2))
        with cgutils.for_range_slice(builder, emit.I64(0), args[2], emit.I64(lanes), emit.I64) as (i, _):
            p, q = emit.load(builder, left, i, word, lanes), emit.load(builder, right, i, word, lanes)
            u, v = ordered(builder, p), ordered(builder, q)
            most, few = (emit.call(builder, emit.name_of(f"s{which}", u), u.type, u, v) for which in ("max", "min"))
            distance = builder.sub(most, few)
            emit.keep(builder, farthest, distance)
            apart = builder.icmp_unsigned("!=", distance, emit.every(word, lanes, 0))
            emit.add_bits(builder, differ, apart)
            emit.add_bits(
                builder, against_zero, builder.and_(apart, builder.icmp_unsigned("==", v, emit.every(word, lanes, 0)))
            )
            flipped = builder.xor(distance, emit.every(word, lanes, 1 << (word.width - 1)))
            emit.store(builder, flipped, given["distances"], i)
            pairs = zip(*(_numbers(builder, a.dtype, side) for side in (p, q)), strict=True)
            for k, (one, other) in enumerate(pairs):
                _screen(builder, a.dtype, one, other, slopes, least, worst)
                if word.width == 16:
                    for value, place in zip((one, other), numbers, strict=True):
                        emit.store(builder, value, place, builder.add(i, emit.I64(16 * k)))
        # From memory, where processors widen numbers in less steps than those in registers.
        with cgutils.for_range_slice(builder, emit.I64(0), args[2], emit.I64(32), emit.I64) as (i, _):
            found = []
            for start in range(0, 32, 16):
                differences = []
                for half in (start, start + EIGHT):
                    place = builder.add(i, emit.I64(half))
                    one, other = (
                        builder.fpext(emit.load(builder, side, place, emit.F32, EIGHT), emit.EIGHT_F64)
                        for side in numbers
                    )
                    differences.append(emit.summed(builder, one, other, totals))
                found.append(emit.bins_of(builder, differences, first_bin))
            emit.store(builder, _joined(builder, a.dtype, *found), given["bins"], i)
        for k, place in enumerate((ABS, AA, BB, AB, DD)):
            total = builder.fadd(
                emit.load(builder, given["sums"], emit.I64(place), emit.F64, EIGHT), builder.load(totals[k])
            )
            emit.store(builder, total, given["sums"], emit.I64(place))
        top = emit.call(builder, "llvm.vector.reduce.fmax.v8f64", emit.F64, builder.load(totals[5]))
        builder.store(top, builder.gep(given["sums"], [emit.I64(GREATEST)]))
        for k in range(LINES):
            most = emit.call(builder, "llvm.vector.reduce.fmax.v16f32", emit.F32, builder.load(worst[k]))
            builder.store(most, builder.gep(given["lines"], [emit.I64(k)]))
        reached = builder.load(farthest)
        ulps = emit.call(builder, emit.name_of("vector.reduce.umax", reached), word, reached)
        for place, value in (
            (DIFFER, builder.load(differ)), (AGAINST_ZERO, builder.load(against_zero)),
            (FARTHEST, builder.zext(ulps, emit.I64)),
        ):  # fmt: skip
            builder.store(value, builder.gep(given["counts"], [emit.I64(place)]))
        return context.get_dummy_value()

    signature = types.void(a, b, size, x, y, lines, tiny, base, bins, distances, sums, counts)
    return signature, generate


def _screen(builder, kind, x, y, slopes, least, worst):
    """Raise the greatest |x-y| - slope * |y| of each line, in float32."""
    difference = absolute(builder, builder.fsub(x, y))
    if kind != types.uint16:
        smaller = builder.select(builder.fcmp_ordered("<", difference, least), difference, least)
        difference = builder.fadd(difference, smaller)
    reference = absolute(builder, y)
    for slope, place in zip(slopes, worst, strict=True):
        emit.greatest(builder, place, emit.call(builder, "llvm.fma.v16f32", x.type, slope, reference, difference))


def _numbers(builder, kind, bits):
    """Vectors of 16 floats each, of 64 bytes of them; those of bfloat16 are every second and the others."""
    if kind != types.int16:
        return [decode(builder, kind, emit.pick(builder, bits, bits, range(start, start + 16)))
                for start in range(0, bits.type.count, 16)]  # fmt: skip
    words = builder.bitcast(bits, ir.VectorType(emit.I32, 16))
    halves = builder.shl(words, emit.every(emit.I32, 16, 16)), builder.and_(words, emit.every(emit.I32, 16, 0xFFFF0000))
    return [builder.bitcast(half, ir.VectorType(emit.F32, 16)) for half in halves]


def _joined(builder, kind, low, high):
    """32 integers that fit 16 bits, of 16 numbers each, in the order that `_numbers` took them from."""
    if kind == types.int16:
        return builder.bitcast(
            builder.or_(low, builder.shl(high, emit.every(emit.I32, 16, 16))), ir.VectorType(emit.I16, 32)
        )
    return builder.trunc(emit.pick(builder, low, high, range(32)), ir.VectorType(emit.I16, 32))
