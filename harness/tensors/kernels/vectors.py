"""Loops over floats of 16 and 32 bits and integers of 8 that are written as vector code: no compiler finds them.

Each function here is one loop that a kernel calls on a block that stays in the first-level cache, 64 bytes at a time
unless it says otherwise. LLVM turns the generic vectors into whatever the processor has; nothing in here names an
instruction set. Blocks are padded with equal zeros to a multiple of `LANES`.
"""

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from harness.tensors.kernels.compiler import FEATURES, bare
from harness.tensors.kernels.intrinsics import INFINITY, absolute, constant, decode, magnitude, ordered

LANES = 64
"""The most elements per step; blocks are multiples of it, and buffers that are compressed into have as many more."""
AHEAD = 8192
"""Elements between what is worked on and what is fetched; processors fetch ahead by themselves, but not far enough."""
EIGHT = 8
"""Lanes of a running sum in float64."""
ABS, AA, BB, AB, DD, GREATEST = range(0, 6 * EIGHT, EIGHT)
"""Where `dense`'s `sums` has the running sums of |a-b|, aa, bb, ab and (a-b)(a-b), and the greatest |a-b|."""
DIFFER, AGAINST_ZERO, FARTHEST, BEYOND = range(4)
"""Where `counts` has values that differ, those whose reference is zero, and the greatest ULP distance or difference.

At `BEYOND`, which only `whole` has, is whether any relative difference may be greater than is known."""
SUM_ABS, SUM_AA, SUM_BB, SUM_AB, SUMS = range(5)
"""Where `whole`'s `sums` has those of |a-b|, aa, bb and ab, and how many there are."""
RELATIVE, FIRST_RULE, LINES = 0, 1, 3
"""Where `dense`'s `lines` has the relative difference's and the rules', and how many there are."""

_I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
_F32, _F64 = ir.FloatType(), ir.DoubleType()
_EIGHT = ir.VectorType(_F64, EIGHT)
_SHIFT = 14  # `Bins.shift`, 46, less the 32 bits that are dropped first


def _word(kind):
    """LLVM's integer for an array's elements, and how many make 64 bytes."""
    return ir.IntType(kind.dtype.bitwidth), 512 // kind.dtype.bitwidth


def _all(kind, lanes, value):
    """A constant in every lane."""
    return constant(ir.VectorType(kind, lanes), value)


def _spread(builder, value, lanes):
    """A value in every lane."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, one, _all(_I32, lanes, 0))


def _pick(builder, low, high, lanes):
    """Some lanes of two vectors."""
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _call(builder, name, result, *args):
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, [one.type for one in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _data(context, builder, kind, array):
    """Where an array's elements begin."""
    return cgutils.create_struct_proxy(kind)(context, builder, array).data


def _alignment(kind):
    """Bytes that an element is aligned to."""
    return {_F64: 8, _F32: 4}.get(kind) or kind.width // 8


def _load(builder, pointer, index, kind, lanes):
    """`lanes` elements; elements are aligned, vectors need not be."""
    place = builder.bitcast(builder.gep(pointer, [index]), ir.VectorType(kind, lanes).as_pointer())
    return builder.load(place, align=_alignment(kind))


def _store(builder, value, pointer, index):
    place = builder.bitcast(builder.gep(pointer, [index]), value.type.as_pointer())
    builder.store(value, place, align=_alignment(value.type.element))


def _variable(builder, kind, start=None):
    """A place for a running value, which LLVM keeps in a register."""
    place = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, start), place)
    return place


def _count(builder, place, mask):
    """Add the number of lanes that are set; returns what was there before."""
    before = builder.load(place)
    integer = ir.IntType(mask.type.count)
    bits = _call(builder, f"llvm.ctpop.i{integer.width}", integer, builder.bitcast(mask, integer))
    builder.store(builder.add(before, builder.zext(bits, _I64)), place)
    return before


def _total(builder, value):
    """The sum of an integer's lanes, 64 bits wide; those of the sum must not exceed the lanes' own."""
    total = _call(builder, _name("vector.reduce.add", value), value.type.element, value)
    return builder.sext(total, _I64)


def _greatest(builder, place, value):
    """Keep the greater of what is there and a float; NaN never is."""
    old = builder.load(place)
    builder.store(builder.select(builder.fcmp_ordered(">", value, old), value, old), place)


def _name(function, value):
    """LLVM's name for a function of one kind of vector."""
    element = value.type.element
    letter = "i" if isinstance(element, ir.IntType) else "f"
    width = element.width if letter == "i" else 64 if element is _F64 else 32
    return f"llvm.{function}.v{value.type.count}{letter}{width}"


def _squeeze(builder, value, mask, pointer, index):
    """Store the lanes that are set, next to one another; what follows them is overwritten."""
    width = value.type.element.width
    if FEATURES.get("avx512vbmi2" if width == 16 else "avx512f"):
        packed = _call(builder, _name("experimental.vector.compress", value), value.type, value, mask, value.type(None))
        _store(builder, packed, pointer, index)
        return
    # LLVM would take all lanes one by one, and mostly few are set.
    held = cgutils.alloca_once(builder, value.type)
    builder.store(value, held)
    lanes = builder.bitcast(held, value.type.element.as_pointer())
    kind = ir.IntType(mask.type.count)
    left, place = cgutils.alloca_once(builder, kind), cgutils.alloca_once(builder, _I64)
    builder.store(builder.bitcast(mask, kind), left)
    builder.store(index, place)
    with _while(builder, left) as bits:
        lane = builder.zext(builder.cttz(bits, ir.Constant(ir.IntType(1), 1)), _I64)
        one = builder.load(builder.gep(lanes, [lane]))
        here = builder.load(place)
        builder.store(one, builder.gep(pointer, [here]))
        builder.store(builder.add(here, _I64(1)), place)
        builder.store(builder.and_(bits, builder.sub(bits, kind(1))), left)


@contextmanager
def _while(builder, place):
    """A loop while an integer is not zero, which the body must see to; yields it."""
    test, body, end = (builder.append_basic_block(f"while.{part}") for part in ("test", "body", "end"))
    builder.branch(test)
    builder.position_at_end(test)
    value = builder.load(place)
    builder.cbranch(builder.icmp_unsigned("!=", value, value.type(0)), body, end)
    builder.position_at_end(body)
    yield value
    builder.branch(test)
    builder.position_at_end(end)


def _add_product(builder, place, left, right):
    """A running sum of products, rounded once where the processor can."""
    product = builder.fmul(left, right, flags=("contract",))
    builder.store(builder.fadd(builder.load(place), product, flags=("contract",)), place)


def _fetch(builder, pointer, index, ahead):
    """Ask for a cache line that will be needed soon; an address outside the array does no harm."""
    place = builder.bitcast(builder.gep(pointer, [builder.add(index, _I64(ahead))]), _I8.as_pointer())
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), place, _I32(0), _I32(2), _I32(1))


@intrinsic
def fetch(_context, a, index):
    """Ask for the cache line that holds an element, or would hold it were the array longer."""

    def generate(context, builder, _s, args):
        _fetch(builder, _data(context, builder, a, args[0]), args[1], 0)
        return context.get_dummy_value()

    return types.void(a, index), generate


def _at_least(together):
    """`at_least` for as many edges at once."""

    @intrinsic
    def count(_context, values, size, edges, first, counts):
        def generate(context, builder, _s, args):
            source, limits, counted = (_data(context, builder, kind, value) for kind, value in zip(
                (values, edges, counts), (args[0], args[2], args[4]), strict=True))  # fmt: skip
            word, lanes = _word(values)
            places = [builder.add(args[3], _I64(k)) for k in range(together)]
            from_here = [_spread(builder, builder.load(builder.gep(limits, [place])), lanes) for place in places]
            # Where masks have registers of their own, counting their bits is the cheapest; else lanes count.
            masks = FEATURES.get("avx512bw")
            below = [_variable(builder, _I64 if masks else edge.type, 0) for edge in from_here]
            with cgutils.for_range_slice(builder, _I64(0), args[1], _I64(lanes), _I64) as (i, _):
                value = _load(builder, source, i, word, lanes)
                for edge, found in zip(from_here, below, strict=True):
                    less = builder.icmp_signed("<", value, edge)
                    if masks:
                        _count(builder, found, less)
                    else:
                        builder.store(builder.sub(builder.load(found), builder.sext(less, edge.type)), found)
            for place, found in zip(places, map(builder.load, below), strict=True):
                total = found if masks else _total(builder, builder.zext(found, ir.VectorType(_I32, lanes)))
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
        left, right = _data(context, builder, a, args[0]), _data(context, builder, b, args[1])
        word, lanes = _word(a)
        differ, special = _variable(builder, _I64, 0), _variable(builder, ir.IntType(lanes), 0)
        limit = _all(word, lanes, INFINITY[a.dtype])
        with cgutils.for_range_slice(builder, _I64(0), args[2], _I64(lanes), _I64) as (i, _):
            _fetch(builder, left, i, AHEAD)
            _fetch(builder, right, i, AHEAD)
            p, q = _load(builder, left, i, word, lanes), _load(builder, right, i, word, lanes)
            _count(builder, differ, builder.icmp_unsigned("!=", p, q))
            wild = [builder.icmp_unsigned(">=", magnitude(builder, side), limit) for side in (p, q)]
            bits = builder.bitcast(builder.or_(*wild), ir.IntType(lanes))
            builder.store(builder.or_(builder.load(special), bits), special)
        parts = [builder.load(differ), builder.zext(builder.load(special), _I64)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(types.int64, 2)(a, b, size), generate


@intrinsic
def split(_context, a, b, size, left, right, place, sums):
    """Copy the pairs whose bits differ, and where they are; add the squares of the others to `sums`' first eight.

    Returns how many were copied. `left`, `right` and `place`, 16-bit integers, are longer than `size` by `LANES`.
    """

    def generate(context, builder, _s, args):
        pointers = [_data(context, builder, k, v) for k, v in zip(
            (a, b, left, right, place, sums), (args[0], args[1], *args[3:]), strict=True)]  # fmt: skip
        copied = _variable(builder, _I64, 0)
        totals = [_variable(builder, _EIGHT) for _ in range(2)]
        word, lanes = _word(a)
        steps = ir.Constant(ir.VectorType(_I16, lanes), list(range(lanes)))
        with cgutils.for_range_slice(builder, _I64(0), args[2], _I64(lanes), _I64) as (i, _):
            p, q = _load(builder, pointers[0], i, word, lanes), _load(builder, pointers[1], i, word, lanes)
            apart = builder.icmp_unsigned("!=", p, q)
            here = builder.add(_spread(builder, builder.trunc(i, _I16), lanes), steps)
            index = _count(builder, copied, apart)
            for value, pointer in zip((p, q, here), pointers[2:5], strict=True):
                _squeeze(builder, value, apart, pointer, index)
            same = builder.select(apart, _all(word, lanes, 0), p)
            for start in range(0, lanes, 16):
                x = decode(builder, a.dtype, _pick(builder, same, same, range(start, start + 16)))
                for k in range(2):
                    wide = builder.fpext(_pick(builder, x, x, range(8 * k, 8 * k + 8)), _EIGHT)
                    _add_product(builder, totals[k], wide, wide)
        total = builder.fadd(builder.load(totals[0]), builder.load(totals[1]))
        _store(builder, builder.fadd(_load(builder, pointers[5], _I64(0), _F64, 8), total), pointers[5], _I64(0))
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
        left, right = _data(context, builder, a, args[0]), _data(context, builder, b, args[1])
        word, lanes = _word(a)
        given = {name: _data(context, builder, kind, value) for name, kind, value in zip(
            ("x", "y", "lines", "bins", "distances", "sums", "counts"), (x, y, lines, bins, distances, sums, counts),
            (*args[3:6], *args[8:]), strict=True)}  # fmt: skip
        numbers = [given["x"], given["y"]]
        if word.width == 32:
            numbers = [builder.bitcast(side, _F32.as_pointer()) for side in (left, right)]
        slopes = [_spread(builder, builder.fneg(builder.load(builder.gep(given["lines"], [_I64(k)]))), 16)
                  for k in range(LINES)]  # fmt: skip
        least = _spread(builder, args[6], 16)
        first_bin = _spread(builder, builder.trunc(args[7], _I32), 16)
        totals = [_variable(builder, _EIGHT) for _ in range(6)]
        worst = [_variable(builder, ir.VectorType(_F32, 16)) for _ in range(LINES)]
        farthest = _variable(builder, ir.VectorType(word, lanes))
        differ, against_zero = (_variable(builder, _I64, 0) for _ in range(2))
        with cgutils.for_range_slice(builder, _I64(0), args[2], _I64(lanes), _I64) as (i, _):
            p, q = _load(builder, left, i, word, lanes), _load(builder, right, i, word, lanes)
            u, v = ordered(builder, p), ordered(builder, q)
            most, few = (_call(builder, _name(f"s{which}", u), u.type, u, v) for which in ("max", "min"))
            distance = builder.sub(most, few)
            _keep(builder, farthest, distance)
            apart = builder.icmp_unsigned("!=", distance, _all(word, lanes, 0))
            _count(builder, differ, apart)
            _count(builder, against_zero, builder.and_(apart, builder.icmp_unsigned("==", v, _all(word, lanes, 0))))
            flipped = builder.xor(distance, _all(word, lanes, 1 << (word.width - 1)))
            _store(builder, flipped, given["distances"], i)
            pairs = zip(*(_numbers(builder, a.dtype, side) for side in (p, q)), strict=True)
            for k, (one, other) in enumerate(pairs):
                _screen(builder, a.dtype, one, other, slopes, least, worst)
                if word.width == 16:
                    for value, place in zip((one, other), numbers, strict=True):
                        _store(builder, value, place, builder.add(i, _I64(16 * k)))
        # From memory, where processors widen numbers in less steps than those in registers.
        with cgutils.for_range_slice(builder, _I64(0), args[2], _I64(32), _I64) as (i, _):
            found = []
            for start in range(0, 32, 16):
                here = builder.add(i, _I64(start))
                place = builder.sub(_differences(builder, numbers, here, totals), first_bin)
                found.append(_call(builder, "llvm.smax.v16i32", place.type, place, _all(_I32, 16, 0)))
            _store(builder, _joined(builder, a.dtype, *found), given["bins"], i)
        for k, place in enumerate((ABS, AA, BB, AB, DD)):
            total = builder.fadd(_load(builder, given["sums"], _I64(place), _F64, EIGHT), builder.load(totals[k]))
            _store(builder, total, given["sums"], _I64(place))
        top = _call(builder, "llvm.vector.reduce.fmax.v8f64", _F64, builder.load(totals[5]))
        builder.store(top, builder.gep(given["sums"], [_I64(GREATEST)]))
        for k in range(LINES):
            most = _call(builder, "llvm.vector.reduce.fmax.v16f32", _F32, builder.load(worst[k]))
            builder.store(most, builder.gep(given["lines"], [_I64(k)]))
        reached = builder.load(farthest)
        ulps = _call(builder, _name("vector.reduce.umax", reached), word, reached)
        for place, value in (
            (DIFFER, builder.load(differ)), (AGAINST_ZERO, builder.load(against_zero)),
            (FARTHEST, builder.zext(ulps, _I64)),
        ):  # fmt: skip
            builder.store(value, builder.gep(given["counts"], [_I64(place)]))
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
        _greatest(builder, place, _call(builder, "llvm.fma.v16f32", x.type, slope, reference, difference))


def _numbers(builder, kind, bits):
    """Vectors of 16 floats each, of 64 bytes of them; those of bfloat16 are every second and the others."""
    if kind != types.int16:
        return [decode(builder, kind, _pick(builder, bits, bits, range(start, start + 16)))
                for start in range(0, bits.type.count, 16)]  # fmt: skip
    words = builder.bitcast(bits, ir.VectorType(_I32, 16))
    halves = builder.shl(words, _all(_I32, 16, 16)), builder.and_(words, _all(_I32, 16, 0xFFFF0000))
    return [builder.bitcast(half, ir.VectorType(_F32, 16)) for half in halves]


def _joined(builder, kind, low, high):
    """32 integers that fit 16 bits, of 16 numbers each, in the order that `_numbers` took them from."""
    if kind == types.int16:
        return builder.bitcast(builder.or_(low, builder.shl(high, _all(_I32, 16, 16))), ir.VectorType(_I16, 32))
    return builder.trunc(_pick(builder, low, high, range(32)), ir.VectorType(_I16, 32))


def _differences(builder, numbers, here, totals):
    """Add to the sums in float64, from 16 pairs on; returns the exponents and first mantissa bits of differences."""
    found = []
    for start in (0, EIGHT):
        place = builder.add(here, _I64(start))
        p, q = (builder.fpext(_load(builder, side, place, _F32, 8), _EIGHT) for side in numbers)
        e = absolute(builder, builder.fsub(p, q))
        builder.store(builder.fadd(builder.load(totals[0]), e), totals[0])
        for place, pair in zip(totals[1:5], ((p, p), (q, q), (p, q), (e, e)), strict=True):
            _add_product(builder, place, *pair)
        _greatest(builder, totals[5], e)
        found.append(builder.bitcast(e, ir.VectorType(_I32, 16)))
    high = _pick(builder, found[0], found[1], range(1, 32, 2))
    return builder.lshr(high, _all(_I32, 16, _SHIFT))


@intrinsic
def whole(_context, a, b, size, slope, differences, sums, counts):
    """Everything that a block of integers of 8 bits adds to the metrics.

    Args:
        a: one side, uint8 or int8.
        b: the reference.
        size: how many pairs, a multiple of `LANES` and at most `BLOCK`.
        slope: int64, 256 times the greatest relative difference that is known, rounded down.
        differences: uint8, filled with |a-b| for `at_least`: the top bit is flipped.
        sums: int64, added to at `SUM_ABS`, `SUM_AA`, `SUM_BB` and `SUM_AB`.
        counts: int64, filled at `DIFFER`, `AGAINST_ZERO`, `FARTHEST` and `BEYOND`.
    """

    def generate(context, builder, _s, args):
        left, right = _data(context, builder, a, args[0]), _data(context, builder, b, args[1])
        filled, summed, counted = (_data(context, builder, kind, value) for kind, value in zip(
            (differences, sums, counts), args[4:], strict=True))  # fmt: skip
        lanes = LANES // 2  # half of what is usual, so that all that runs stays in sixteen registers
        bytes_, shorts = ir.VectorType(_I8, lanes), ir.VectorType(_I16, lanes // 2)
        signed, zero, eight = a.dtype.signed, _all(_I8, lanes, 0), constant(shorts, 8)
        sign = "s" if signed else "u"
        slopes = _spread(builder, builder.trunc(args[3], _I16), lanes // 2)

        def halves(value, arithmetic=False):
            """The even and the odd bytes, as 16-bit integers."""
            words = builder.bitcast(value, shorts)
            if arithmetic:
                return builder.ashr(builder.shl(words, eight), eight), builder.ashr(words, eight)
            return builder.and_(words, constant(shorts, 0xFF)), builder.lshr(words, eight)

        # Of a block a lane gets at most 64 numbers: 8 bits and 6 more, or 16 and 7.
        total, steeper = _variable(builder, shorts), _variable(builder, shorts)
        products = [_variable(builder, ir.VectorType(_I32, lanes // 4)) for _ in range(3)]
        farthest = _variable(builder, bytes_)
        differ, against_zero = (_variable(builder, _I64, 0) for _ in range(2))
        with cgutils.for_range_slice(builder, _I64(0), args[2], _I64(lanes), _I64) as (i, _):
            _fetch(builder, left, i, AHEAD)
            _fetch(builder, right, i, AHEAD)
            p, q = _load(builder, left, i, _I8, lanes), _load(builder, right, i, _I8, lanes)
            most, few = (_call(builder, _name(f"{sign}{which}", p), bytes_, p, q) for which in ("max", "min"))
            distance = builder.sub(most, few)
            _store(builder, builder.xor(distance, _all(_I8, lanes, 0x80)), filled, i)
            _keep(builder, farthest, distance)
            apart, null = builder.icmp_unsigned("!=", p, q), builder.icmp_unsigned("==", q, zero)
            _count(builder, differ, apart)
            _count(builder, against_zero, builder.and_(apart, null))
            size_of = _call(builder, f"llvm.abs.v{lanes}i8", bytes_, q, ir.IntType(1)(0)) if signed else q
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
                excess = _call(builder, _name("usub.sat", r), shorts, r, allowed)
                builder.store(builder.or_(builder.load(steeper), excess), steeper)
        found = [builder.zext(builder.load(total), ir.VectorType(_I32, lanes // 2)), *map(builder.load, products)]
        for place, value in enumerate(found):
            here = builder.gep(summed, [_I64(place)])
            builder.store(builder.add(builder.load(here), _total(builder, value)), here)
        reached, excess = builder.load(farthest), builder.load(steeper)
        most = _call(builder, _name("vector.reduce.umax", reached), _I8, reached)
        any_excess = _call(builder, _name("vector.reduce.or", excess), _I16, excess)
        for place, value in (
            (DIFFER, builder.load(differ)), (AGAINST_ZERO, builder.load(against_zero)),
            (FARTHEST, builder.zext(most, _I64)), (BEYOND, builder.zext(any_excess, _I64)),
        ):  # fmt: skip
            builder.store(value, builder.gep(counted, [_I64(place)]))
        return context.get_dummy_value()

    return types.void(a, b, size, slope, differences, sums, counts), generate


def _keep(builder, place, value):
    """Keep the greater of what is there and unsigned integers."""
    old = builder.load(place)
    builder.store(_call(builder, _name("umax", old), old.type, old, value), place)


def _pairwise(builder, x, y):
    """Products of 16-bit integers that fit 16 bits, each added to its neighbour's in 32 bits."""
    wide = ir.VectorType(_I32, x.type.count)
    product = builder.mul(builder.sext(x, wide), builder.sext(y, wide))
    return builder.add(*(_pick(builder, product, product, range(first, x.type.count, 2)) for first in (0, 1)))


def _upper(builder, x, y):
    """The upper halves of the products of unsigned 16-bit integers."""
    wide = ir.VectorType(_I32, x.type.count)
    product = builder.mul(builder.zext(x, wide), builder.zext(y, wide))
    return builder.trunc(builder.lshr(product, constant(wide, 16)), x.type)
