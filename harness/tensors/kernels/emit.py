"""Pieces of vector code that the loops of `vectors` and `vector_integers` are made of, as LLVM's instructions."""

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils

from harness.tensors.kernels.compiler import FEATURES
from harness.tensors.kernels.intrinsics import absolute, constant

EIGHT = 8
"""Lanes of a running sum in float64."""

I8, I16, I32, I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
EIGHT_F64 = ir.VectorType(F64, EIGHT)
SHIFT = 14  # `Bins.shift`, 46, less the 32 bits that are dropped first


def word(kind):
    """LLVM's integer for an array's elements, and how many make 64 bytes."""
    return ir.IntType(kind.dtype.bitwidth), 512 // kind.dtype.bitwidth


def every(kind, lanes, value):
    """A constant in every lane."""
    return constant(ir.VectorType(kind, lanes), value)


def spread(builder, value, lanes):
    """A value in every lane."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, one, every(I32, lanes, 0))


def pick(builder, low, high, lanes):
    """Some lanes of two vectors."""
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def call(builder, name, result, *args):
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, [one.type for one in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def data(context, builder, kind, array):
    """Where an array's elements begin."""
    return cgutils.create_struct_proxy(kind)(context, builder, array).data


def alignment(kind):
    """Bytes that an element is aligned to."""
    return {F64: 8, F32: 4}.get(kind) or kind.width // 8


def load(builder, pointer, index, kind, lanes):
    """`lanes` elements; elements are aligned, vectors need not be."""
    place = builder.bitcast(builder.gep(pointer, [index]), ir.VectorType(kind, lanes).as_pointer())
    return builder.load(place, align=alignment(kind))


def store(builder, value, pointer, index):
    """Store a vector; see `load`."""
    place = builder.bitcast(builder.gep(pointer, [index]), value.type.as_pointer())
    builder.store(value, place, align=alignment(value.type.element))


def variable(builder, kind, start=None):
    """A place for a running value, which LLVM keeps in a register."""
    place = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, start), place)
    return place


def add_bits(builder, place, mask):
    """Add the number of lanes that are set; returns what was there before."""
    before = builder.load(place)
    integer = ir.IntType(mask.type.count)
    bits = call(builder, f"llvm.ctpop.i{integer.width}", integer, builder.bitcast(mask, integer))
    builder.store(builder.add(before, builder.zext(bits, I64)), place)
    return before


def total(builder, value):
    """The sum of an integer's lanes, 64 bits wide; those of the sum must not exceed the lanes' own."""
    total = call(builder, name_of("vector.reduce.add", value), value.type.element, value)
    return builder.sext(total, I64)


def greatest(builder, place, value):
    """Keep the greater of what is there and a float; NaN never is."""
    old = builder.load(place)
    builder.store(builder.select(builder.fcmp_ordered(">", value, old), value, old), place)


def name_of(function, value):
    """LLVM's name for a function of one kind of vector."""
    element = value.type.element
    letter = "i" if isinstance(element, ir.IntType) else "f"
    width = element.width if letter == "i" else 64 if element is F64 else 32
    return f"llvm.{function}.v{value.type.count}{letter}{width}"


def squeeze(builder, value, mask, pointer, index):
    """Store the lanes that are set, next to one another; what follows them is overwritten."""
    width = value.type.element.width
    if FEATURES.get("avx512vbmi2" if width == 16 else "avx512f"):
        packed = call(
            builder, name_of("experimental.vector.compress", value), value.type, value, mask, value.type(None)
        )
        store(builder, packed, pointer, index)
        return
    # LLVM would take all lanes one by one, and mostly few are set.
    held = cgutils.alloca_once(builder, value.type)
    builder.store(value, held)
    lanes = builder.bitcast(held, value.type.element.as_pointer())
    kind = ir.IntType(mask.type.count)
    left, place = cgutils.alloca_once(builder, kind), cgutils.alloca_once(builder, I64)
    builder.store(builder.bitcast(mask, kind), left)
    builder.store(index, place)
    with loop_while(builder, left) as bits:
        lane = builder.zext(builder.cttz(bits, ir.Constant(ir.IntType(1), 1)), I64)
        one = builder.load(builder.gep(lanes, [lane]))
        here = builder.load(place)
        builder.store(one, builder.gep(pointer, [here]))
        builder.store(builder.add(here, I64(1)), place)
        builder.store(builder.and_(bits, builder.sub(bits, kind(1))), left)


@contextmanager
def loop_while(builder, place):
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


def add_product(builder, place, left, right):
    """A running sum of products, rounded once where the processor can."""
    product = builder.fmul(left, right, flags=("contract",))
    builder.store(builder.fadd(builder.load(place), product, flags=("contract",)), place)


def fetch_line(builder, pointer, index, ahead):
    """Ask for a cache line that will be needed soon; an address outside the array does no harm."""
    place = builder.bitcast(builder.gep(pointer, [builder.add(index, I64(ahead))]), I8.as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), place, I32(0), I32(2), I32(1))


def keep(builder, place, value):
    """Keep the greater of what is there and unsigned integers."""
    old = builder.load(place)
    builder.store(call(builder, name_of("umax", old), old.type, old, value), place)


def summed(builder, x, y, totals):
    """Add eight pairs to running sums, and keep the greatest difference; returns the differences."""
    e = absolute(builder, builder.fsub(x, y))
    builder.store(builder.fadd(builder.load(totals[0]), e), totals[0])
    for place, pair in zip(totals[1:5], ((x, x), (y, y), (x, y), (e, e)), strict=True):
        add_product(builder, place, *pair)
    greatest(builder, totals[5], e)
    return e


def bins_of(builder, differences, first_bin):
    """The histogram bins of two times eight differences."""
    low, high = (builder.bitcast(e, ir.VectorType(I32, 2 * EIGHT)) for e in differences)
    exponents = pick(builder, low, high, range(1, 4 * EIGHT, 2))  # with the first bits of mantissas
    place = builder.sub(builder.lshr(exponents, constant(exponents.type, SHIFT)), first_bin)
    return call(builder, name_of("smax", place), place.type, place, constant(place.type, 0))
