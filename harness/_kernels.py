"""Compiled one-pass kernels for big tensors; `harness._passes` holds the same passes in plain NumPy, for small ones.

Everything here works on blocks that stay in the first-level cache: load a block of both sides once, then run short
loops that LLVM turns into vector code, one per metric; `harness._vectors` has the loops that it does not find by
itself. Sums restart with every chunk, and chunks do not depend on the number of threads, so a result is the same on
every run. Compiled code is kept in the user's cache folder.

bfloat16 comes in as int16 and float16 as uint16, so that a kernel can tell them apart by type.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.
# ruff: noqa: ANN001, ANN202, ARG001

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np


def _cache_folder() -> Path | None:
    """Where compiled code is kept: the user's own cache folder, never a shared one, because loading it runs it."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = Path(base) / "colbert-torch-harness" / "numba"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


_FOLDER = _cache_folder()
if _FOLDER is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_FOLDER))

from llvmlite import binding, ir  # type: ignore[import-untyped]  # noqa: E402 - numba reads its settings when it is imported
from numba import config, njit, types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

from harness._vectors import AHEAD, LANES, dense, far, fetch, split, survey  # noqa: E402

if not config.CACHE_DIR and _FOLDER is not None:  # numba was imported by somebody else before this module
    config.CACHE_DIR = str(_FOLDER)
_CACHE = bool(config.CACHE_DIR)

CONVERTS_HALF = platform.machine() not in ("x86_64", "AMD64") or bool(binding.get_host_cpu_features().get("f16c"))
"""Whether the processor converts float16; on one that does not, LLVM calls a function that is missing, and aborts."""

# Counting references to arrays, which numba does at each slice and call, would cost as much as a block. Functions
# marked so can make no arrays; their callers own all that they are given.
_bare = njit(nogil=True, cache=_CACHE, _nrt=False)

BLOCK = 1024
"""Elements per block: a block of both sides and all the buffers fit the first-level cache."""

# Sums may be reordered into vector lanes: fixed by the compiled code, so still the same on every run.
_SUM = {"reassoc", "nsz", "contract"}

_HALF, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
# float16, bfloat16, float32, float64: bits of infinity, the smallest magnitude that is not finite.
_INFINITY = {types.uint16: 0x7C00, types.int16: 0x7F80, types.uint32: 0x7F800000, types.uint64: 0x7FF0000000000000}


def _int(kind: Any) -> Any:  # noqa: ANN401 - llvmlite has no types
    """LLVM's integer type of a numba integer type."""
    return ir.IntType(kind.bitwidth)


def _magnitude(builder, kind, value):
    """Bits without the sign."""
    return builder.and_(value, ir.Constant(_int(kind), (1 << (kind.bitwidth - 1)) - 1))


def _decode(builder, kind, bits):
    """Bits as a float32, or a float64 for 64-bit ones; exact."""
    if kind == types.uint16:
        return builder.fpext(builder.bitcast(bits, _HALF), _F32)
    if kind == types.int16:
        return builder.bitcast(builder.shl(builder.zext(bits, _I32), _I32(16)), _F32)
    return builder.bitcast(bits, _F32 if kind == types.uint32 else _F64)


def _round(builder, kind, value):
    """A finite float32 rounded to nearest even, as bits of the 16-bit format."""
    if kind == types.uint16:
        return builder.bitcast(builder.fptrunc(value, _HALF), _I16)
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    return builder.trunc(builder.lshr(builder.add(builder.add(bits, _I32(0x7FFF)), odd), _I32(16)), _I16)


@intrinsic
def _load(_context, bits):
    """The number that bits stand for."""
    result = types.float64 if bits == types.uint64 else types.float32
    return result(bits), lambda _c, builder, _s, args: _decode(builder, bits, args[0])


@intrinsic
def _is_special(_context, bits):
    """1 for NaN and infinities, else 0."""

    def generate(_c, builder, _s, args):
        limit = ir.Constant(_int(bits), _INFINITY[bits])
        return builder.zext(builder.icmp_unsigned(">=", _magnitude(builder, bits, args[0]), limit), _I32)

    return types.int32(bits), generate


@intrinsic
def _apart(_context, a, b):
    """1 where the bits differ, else 0."""
    return types.int32(a, b), lambda _c, builder, _s, args: builder.zext(builder.icmp_unsigned("!=", *args), _I32)


@intrinsic
def _either(_context, a, b):
    """Bitwise or in 32 bits; numba's own would widen to 64 and halve the lanes."""
    return types.int32(a, b), lambda _c, builder, _s, args: builder.or_(*args)


@intrinsic
def _plus(_context, a, b):
    """Sum in 32 bits."""
    return types.int32(a, b), lambda _c, builder, _s, args: builder.add(*args)


@intrinsic
def _ulps(_context, a, b):
    """How many representable numbers lie between two finite ones; +0 and -0 are the same number."""
    wide = a.bitwidth > 16
    result = types.uint64 if wide else types.uint32
    integer = _I64 if wide else _I32

    def generate(_c, builder, _s, args):
        # 64-bit distances fit an unsigned 64-bit integer (the widest is twice 0x7fefffffffffffff), so the order of the
        # two ordered integers is compared as signed and their difference taken as unsigned.
        ordered = []
        for value in args:
            size = _magnitude(builder, a, value)
            negative = builder.icmp_signed("<", value, ir.Constant(_int(a), 0))
            size = size if a.bitwidth == 64 else builder.zext(size, integer)
            ordered.append(builder.select(negative, builder.neg(size), size))
        x, y = ordered
        return builder.select(builder.icmp_signed("<", x, y), builder.sub(y, x), builder.sub(x, y))

    return result(a, b), generate


@intrinsic
def _greater(_context, a, b):
    """The greater of two unsigned integers, without widening them."""

    def generate(_c, builder, _s, args):
        return builder.select(builder.icmp_unsigned(">", *args), *args)

    return a(a, b), generate


@intrinsic
def _not_close(_context, a, b, rtol, atol):
    """1 where `torch.isclose` says no about two finite numbers, computed as torch computes it.

    ATen's `isclose` evaluates `(self - other).abs() <= atol + (rtol * other).abs()` operator by operator; see
    `harness._passes.not_close` for the source and for what an operator on a 16-bit float rounds. `atol` comes in
    rounded to the dtype, `rtol` to float32 (float64 for 64 bits). The smaller-than comparison of two
    positive floats is that of their bits. `isfinite(actual)` fails where the difference overflows.
    """

    def generate(_c, builder, _s, args):
        x, y = _decode(builder, a, args[0]), _decode(builder, a, args[1])
        product, difference = builder.fmul(y, args[2]), builder.fsub(x, y)
        if a.bitwidth == 16:
            product = _decode(builder, a, _magnitude(builder, a, _round(builder, a, product)))
            allowed = _round(builder, a, builder.fadd(product, args[3]))
            actual = _magnitude(builder, a, _round(builder, a, difference))
        else:
            size = builder.bitcast(_magnitude(builder, a, builder.bitcast(product, _int(a))), product.type)
            allowed = builder.bitcast(builder.fadd(size, args[3]), _int(a))
            actual = _magnitude(builder, a, builder.bitcast(difference, _int(a)))
        beyond = builder.icmp_unsigned(">", actual, allowed)
        overflow = builder.icmp_unsigned(">=", actual, ir.Constant(_int(a), _INFINITY[a]))
        return builder.zext(builder.or_(beyond, overflow), _I32)

    return types.int32(a, b, rtol, atol), generate


@intrinsic
def _size(_context, value):
    """Absolute value of a float64, as one bit operation."""

    def generate(_c, builder, _s, args):
        bits = builder.and_(builder.bitcast(args[0], _I64), _I64((1 << 63) - 1))
        return builder.bitcast(bits, _F64)

    return types.float64(types.float64), generate


@intrinsic
def _bits(_context, value):
    """Bits of a float64; for those that are not negative they sort like the numbers."""
    return types.int64(types.float64), lambda _c, builder, _s, args: builder.bitcast(args[0], _I64)


@intrinsic
def _bin(_context, value, shift, base):
    """`harness._passes.Bins.of` one float64 that is not negative."""

    def generate(_c, builder, _s, args):
        place = builder.sub(builder.lshr(builder.bitcast(args[0], _I64), args[1]), args[2])
        return builder.trunc(builder.select(builder.icmp_signed("<", place, _I64(0)), _I64(0), place), _I32)

    return types.uint32(types.float64, types.int64, types.int64), generate


@intrinsic
def _ulp_bin(_context, distance, shift, base):
    """`harness._passes.Bins.of` a distance; those of 16-bit formats are exact in float32, which has twice the lanes."""

    def generate(_c, builder, _s, args):
        if distance.bitwidth == 32:
            bits = builder.bitcast(builder.uitofp(args[0], _F32), _I32)
            # float32 has 29 mantissa bits fewer, and its exponents begin 896 lower.
            shift = builder.trunc(builder.sub(args[1], _I64(29)), _I32)
            base = builder.trunc(builder.sub(args[2], builder.shl(_I64(896), builder.sub(_I64(52), args[1]))), _I32)
            place = builder.sub(builder.lshr(bits, shift), base)
            return builder.select(builder.icmp_signed("<", place, _I32(0)), _I32(0), place)
        place = builder.sub(builder.lshr(builder.bitcast(builder.uitofp(args[0], _F64), _I64), args[1]), args[2])
        return builder.trunc(builder.select(builder.icmp_signed("<", place, _I64(0)), _I64(0), place), _I32)

    return types.uint32(distance, types.int64, types.int64), generate


@intrinsic
def _beyond(_context, ratio, reference, excess):
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
def _distance(_context, a, b):
    """|a - b| in the numbers' own width."""

    def generate(_c, builder, _s, args):
        integer = _int(a)
        bits = builder.bitcast(builder.fsub(*args), integer)
        return builder.bitcast(_magnitude(builder, a, bits), args[0].type)

    return a(a, b), generate


@intrinsic
def _above(_context, ratio, reference, excess):
    """1 where excess > ratio * |reference|, in the numbers' own width; never where the ratio is infinite."""

    def generate(_c, builder, _s, args):
        bits = builder.bitcast(args[1], _int(reference))
        size = builder.bitcast(_magnitude(builder, reference, bits), args[1].type)
        rest = builder.fma(builder.fneg(args[0]), size, args[2])
        return builder.zext(builder.fcmp_ordered(">", rest, ir.Constant(rest.type, 0.0)), _I32)

    return types.int32(ratio, reference, excess), generate


@intrinsic
def _gap(_context, a, b):
    """Distance of two 64-bit integers as a float64; exact before the one rounding to float64."""

    def generate(_c, builder, _s, args):
        less = builder.icmp_signed if a.signed else builder.icmp_unsigned
        x, y = args
        return builder.uitofp(builder.select(less("<", x, y), builder.sub(y, x), builder.sub(x, y)), _F64)

    return types.float64(a, b), generate


@_bare
def _look(a, b):
    """Whether any bits differ, and whether anything is not finite."""
    apart = np.int32(0)
    special = np.int32(0)
    for i in range(a.size):
        apart = _either(apart, _apart(a[i], b[i]))
        special = _either(special, _either(_is_special(a[i]), _is_special(b[i])))
    return apart, special


@_bare
def _ahead(a, b, start, m):
    """Ask for the elements that will be needed in a while, as many as a block has."""
    for i in range(start, start + m, 64 // a.itemsize):
        fetch(a, i + AHEAD)
        fetch(b, i + AHEAD)


@_bare
def _decode_block(a, b, x, y, m):
    for i in range(m):
        x[i] = _load(a[i])
        y[i] = _load(b[i])


@njit(nogil=True, cache=_CACHE, fastmath=_SUM)
def _squares(x, m):
    total = 0.0
    for i in range(m):
        value = np.float64(x[i])
        total += value * value
    return total


@njit(nogil=True, cache=_CACHE, fastmath=_SUM)
def _sums(x, y, d, bins, shift, base, m):
    """Fill the differences and their histogram bins; sum |a-b|, aa, bb, ab, (a-b)(a-b)."""
    total = aa = bb = ab = dd = 0.0
    for i in range(m):
        p = np.float64(x[i])
        q = np.float64(y[i])
        e = _size(p - q)
        d[i] = e
        bins[i] = _bin(e, shift, base)
        total += e
        aa += p * p
        bb += q * q
        ab += p * q
        dd += e * e
    return total, aa, bb, ab, dd


@njit(nogil=True, cache=_CACHE, fastmath=_SUM)
def _gaps(a, b, d, bins, shift, base, m):
    """As `_sums`, the differences of 64-bit integers, which float64 cannot hold before subtracting."""
    total = dd = 0.0
    for i in range(m):
        e = _gap(a[i], b[i])
        d[i] = e
        bins[i] = _bin(e, shift, base)
        total += e
        dd += e * e
    return total, dd


@njit(nogil=True, cache=_CACHE)
def _counts(d, y, m):
    """Bits of the greatest difference, how many differ, how many of those have a reference of zero."""
    top = np.int64(0)
    differ = 0
    against_zero = 0
    for i in range(m):
        top = max(top, _bits(d[i]))
        differ += d[i] != 0.0
        against_zero += (d[i] != 0.0) & (y[i] == 0.0)
    return top, differ, against_zero


@_bare
def _any_beyond(d, y, ratio, atol, m):
    count = np.int32(0)
    for i in range(m):
        count = _plus(count, _beyond(ratio, _size(np.float64(y[i])), d[i] - atol))
    return count


@_bare
def _ratio(d, y, best, atol, infinite, m):
    """Greatest (d - atol) / |y| above `best`, and where; a reference of zero counts as infinite, or not at all."""
    place = -1
    for i in range(m):
        r = _size(np.float64(y[i]))
        if r > 0.0:
            value = (d[i] - atol) / r
        elif infinite and d[i] > atol:
            value = np.inf
        else:
            value = 0.0
        if value > best:
            best = value
            place = i
    return best, place


@_bare
def _any_not_close(a, b, rtol, atol):
    count = np.int32(0)
    for i in range(a.size):
        count = _plus(count, _not_close(a[i], b[i], rtol, atol))  # LLVM vectorises a sum here, and no or
    return count


@njit(nogil=True, cache=_CACHE)
def _ulp_block(a, b, zero, bins, shift, base, m):
    """Fill the histogram bins of the distances; return the greatest distance. `zero` carries their type."""
    top = zero[0]
    for i in range(m):
        distance = _ulps(a[i], b[i])
        bins[i] = _ulp_bin(distance, shift, base)
        top = _greater(top, distance)
    return top


@_bare
def _scatter(bins, h, m):
    """Count bins; four tables in turn, so that equal neighbours do not wait for one another."""
    four = m // 4 * 4
    for i in range(0, four, 4):
        h[0, bins[i]] += 1
        h[1, bins[i + 1]] += 1
        h[2, bins[i + 2]] += 1
        h[3, bins[i + 3]] += 1
    for i in range(four, m):
        h[0, bins[i]] += 1


@_bare
def _scatter_sparse(bins, h, m):
    """As `_scatter` for a block in which few elements differ: eights without any are counted as one."""
    eights = m // 8 * 8
    zeros = 0
    for i in range(0, eights, 8):
        if (
            bins[i] | bins[i + 1] | bins[i + 2] | bins[i + 3] | bins[i + 4] | bins[i + 5] | bins[i + 6] | bins[i + 7]
        ) == 0:
            zeros += 8
            continue
        for k in range(0, 8, 4):
            h[0, bins[i + k]] += 1
            h[1, bins[i + k + 1]] += 1
            h[2, bins[i + k + 2]] += 1
            h[3, bins[i + k + 3]] += 1
    for i in range(eights, m):
        h[0, bins[i]] += 1
    h[0, 0] += zeros


@_bare
def _compact(a, b, x, y, place, counts, failed, firsts, offset):
    """Copy the pairs in which both are finite, and count the others; returns how many were copied.

    `counts` gets NaN of a and b, +inf of a and b, -inf of a and b, places where the two are not special alike, and
    mismatches. A pair that is not finite is close only when it is the same infinity, whatever the tolerance.
    """
    m = 0
    for i in range(a.size):
        if _is_special(a[i]) == 0 and _is_special(b[i]) == 0:
            x[m] = a[i]
            y[m] = b[i]
            place[m] = i
            m += 1
            continue
        p = np.float64(_load(a[i]))
        q = np.float64(_load(b[i]))
        counts[0] += p != p  # noqa: PLR0124 - the test for NaN
        counts[1] += q != q  # noqa: PLR0124
        counts[2] += p == np.inf
        counts[3] += q == np.inf
        counts[4] += p == -np.inf
        counts[5] += q == -np.inf
        if p == q:
            continue
        both_nan = p != p and q != q  # noqa: PLR0124
        counts[6] += not both_nan
        counts[7] += 1
        for k in range(failed.size):
            failed[k] = True
        _note(firsts, offset + i)
    return m


@_bare
def _note(firsts, index):
    """Keep the five smallest indices of a chunk; `firsts` is sorted and filled with a huge number."""
    slot = firsts.size
    while slot > 0 and firsts[slot - 1] > index:
        slot -= 1
    for i in range(firsts.size - 1, slot, -1):
        firsts[i] = firsts[i - 1]
    if slot < firsts.size:
        firsts[slot] = index


@_bare
def _where_ulp(a, b, wanted):
    for i in range(a.size):
        if _ulps(a[i], b[i]) == wanted:
            return i
    return -1


@_bare
def _screen(x, y, c, m):
    """Whether (|a-b| - atol) / |b| may exceed any of three ratios: in the numbers' own width, and never a wrong no.

    `c` holds ratio, ratio, atol, ratio, atol, and what to add to a difference so that subnormals' roundings cannot hide
    it; the caller has made ratios and atols a little smaller than they are, more than float32 rounds.
    """
    count = np.int32(0)
    for i in range(m):
        d = _distance(x[i], y[i]) + c[5]
        one = _either(_above(c[0], y[i], d), _above(c[1], y[i], d - c[2]))
        count = _plus(count, _either(one, _above(c[3], y[i], d - c[4])))
    return count


@_bare
def _any_above(x, y, rtol, atol, m):
    """Whether any |a-b| exceeds atol + rtol * |b|, in the numbers' own width."""
    count = np.int32(0)
    for i in range(m):
        count = _plus(count, _above(rtol, y[i], _distance(x[i], y[i]) - atol))
    return count


@_bare
def _slope(ratio):
    """A ratio as a screen's slope: a little smaller, and finite in float32, unless it cannot be raised any more."""
    return min(ratio * (1 - 2.0**-18), 2.0**127) if ratio < np.inf else ratio


@_bare
def _ratios(x, y, d, c, place, compacted, offset, atols, f, at, m):
    """Raise the greatest relative difference and the rtol that each rule needs, where this block has greater ones."""
    for first in range(0, max(atols.size, 1), 2):
        c[0] = _slope(f[6]) if first == 0 else np.inf
        for k in range(2):
            known = first + k < atols.size
            c[1 + 2 * k] = _slope(f[7 + first + k]) if known else np.inf
            c[2 + 2 * k] = atols[first + k] * (1 - 2.0**-20) if known else 0.0
        if not _screen(x, y, c, m):
            continue
        if first == 0 and _any_beyond(d, y, f[6], 0.0, m):
            f[6], i = _ratio(d, y, f[6], 0.0, False, m)
            if i >= 0:
                at[1] = offset + (place[i] if compacted else i)
        for k in range(first, min(first + 2, atols.size)):
            if f[7 + k] < np.inf and _any_beyond(d, y, f[7 + k], atols[k], m):
                f[7 + k], i = _ratio(d, y, f[7 + k], atols[k], True, m)
                if i >= 0:
                    at[3 + k] = offset + (place[i] if compacted else i)


@njit(nogil=True, cache=_CACHE)
def _common(x, y, d, c, place, compacted, offset, bins, h, atols, f, at, n, firsts, m):
    """The metrics that floats and integers share, for one block of finite pairs; returns how many differ."""
    top, differ, against_zero = _counts(d, y, m)
    n[1] += differ
    n[2] += against_zero
    if differ == 0:
        h[0, 0] += m
        return differ
    if top > _bits(f[5]):
        i = 0
        while _bits(d[i]) != top:
            i += 1
        f[5] = d[i]
        at[0] = offset + (place[i] if compacted else i)
    _ratios(x, y, d, c, place, compacted, offset, atols, f, at, m)
    if differ * 8 < m:
        _scatter_sparse(bins, h, m)
    else:
        _scatter(bins, h, m)
    if firsts[firsts.size - 1] > offset:
        for i in range(m):
            if d[i] != 0.0:
                index = offset + (place[i] if compacted else i)
                if index > firsts[firsts.size - 1]:
                    break
                _note(firsts, index)
    return differ


@njit(nogil=True, cache=_CACHE)
def _float_block(
    p, q, place, compacted, start, x, y, d, c, bins, tail, u, rtols, atols, wide_atols, easy_rtols, easy_atols, calm,
    failed, h, shift, base, g, ulp_shift, ulp_base, limit, f, at, n, top, firsts,
):  # fmt: skip
    """One block of finite pairs of which some may differ."""
    m = p.size
    total, aa, bb, ab, dd = _sums(x, y, d, bins, shift, base, m)
    f[0] += total
    f[1] += aa
    f[2] += bb
    f[3] += ab
    f[4] += dd
    differ = _common(x, y, d, c, place, compacted, start, bins, h, wide_atols, f, at, n, firsts, m)
    if differ == 0:
        g[0, 0] += m
        return
    for k in range(rtols.size):
        # A cheaper test first, strict enough to imply torch's whatever it rounds; blocks of close tensors pass.
        easy = failed[k] or (f[5] < calm and not _any_above(x, y, easy_rtols[k], easy_atols[k], m))
        if not easy and _any_not_close(p, q, rtols[k], atols[k]):
            failed[k] = True
    highest = _ulp_block(p, q, u, bins, ulp_shift, ulp_base, m)
    if highest > top[0]:
        top[0] = highest
        i = _where_ulp(p, q, highest)
        at[2] = start + (place[i] if compacted else i)
    # The rest of the last step holds bins of another block.
    bins[m : (m + 15) // 16 * 16] = 0
    count = far(bins, (m + 15) // 16 * 16, limit, tail)
    if limit == 0:
        count = m
    g[0, 0] += m - count
    _scatter(tail, g, count)


@njit(nogil=True, cache=_CACHE)
def float_chunk(
    a, b, x, y, u, rtols, atols, wide_atols, easy_rtols, easy_atols, calm, tiny, failed, h, shift, base,
    g, ulp_shift, ulp_base, limit, f, at, n, top, firsts,
):  # fmt: skip
    """One chunk of floats; see `harness.metrics._Sink` for what the output arrays mean.

    ULP distances whose bin is below `limit` count as none.
    """
    tail = np.empty(BLOCK + 16, np.uint32)
    d = np.empty(BLOCK)
    c = np.zeros(6, x.dtype)
    c[5] = tiny
    bins = np.empty(BLOCK, np.uint32)  # unsigned, or numba checks each index for being negative
    place = np.empty(BLOCK, np.int64)
    ca = np.empty(BLOCK, a.dtype)
    cb = np.empty(BLOCK, b.dtype)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        _ahead(a, b, start, m)
        apart, special = _look(p, q)
        if apart:
            n[3] = 1
        compacted = special != 0
        if compacted:
            m = _compact(p, q, ca, cb, place, n[4:], failed, firsts, start)
            p = ca[:m]
            q = cb[:m]
        n[0] += m
        _decode_block(p, q, x, y, m)
        if apart:
            _float_block(
                p, q, place, compacted, start, x, y, d, c, bins, tail, u, rtols, atols, wide_atols, easy_rtols,
                easy_atols, calm, failed, h, shift, base, g, ulp_shift, ulp_base, limit, f, at, n, top, firsts,
            )  # fmt: skip
            continue
        square = _squares(x, m)
        f[1] += square
        f[2] += square
        f[3] += square
        h[0, 0] += m
        g[0, 0] += m


@_bare
def _slopes(lines, thresholds, failed, easy_rtols, easy_atols, atols, calm, f):
    """Set the lines |a-b| = threshold + slope * |b| below which nothing new can happen; False where that is not known.

    Below a line no maximum is raised, and no verdict that is still yes becomes no. Slopes and thresholds are a little
    smaller than what they stand for, more than float32 rounds. Two rules have a line; with more, nothing is known.
    """
    known = atols.size <= 2
    lines[0] = _slope(f[6])
    thresholds[0] = 0.0
    for k in range(2):
        lines[1 + k] = np.inf
        thresholds[1 + k] = 0.0
        if k >= atols.size:
            continue
        slope = _slope(f[7 + k])
        threshold = atols[k] * (1 - 2.0**-20)
        if not failed[k]:
            slope = min(slope, np.float64(easy_rtols[k]))
            threshold = min(threshold, np.float64(easy_atols[k]))
            known = known and threshold >= 0.0 and f[5] < calm
        lines[1 + k] = slope
        thresholds[1 + k] = threshold
    return known


@_bare
def _far(tail, count, wide, bins, g, shift, base):
    """Count distances in the histogram; `wide` has the type that holds them exactly."""
    for i in range(count):
        wide[i] = tail[i]
        bins[i] = _ulp_bin(wide[i], shift, base)
    _scatter(bins, g, count)


@_bare
def _events(p, q, m, place, placed, start, x, y, d, c, tiny, rtols, atols, wide_atols, easy_rtols, easy_atols, calm,
                 failed, f, at):  # fmt: skip
    """What `dense` found some reason to look at: ratios that may be greater, verdicts that may turn to no."""
    c[5] = tiny
    _decode_block(p, q, x, y, m)
    for i in range(m):
        d[i] = _size(np.float64(x[i]) - np.float64(y[i]))
    _ratios(x, y, d, c, place, placed, start, wide_atols, f, at, m)
    for k in range(rtols.size):
        easy = failed[k] or (f[5] < calm and not _any_above(x, y, easy_rtols[k], easy_atols[k], m))
        if not easy and _any_not_close(p[:m], q[:m], rtols[k], atols[k]):
            failed[k] = True


@_bare
def _pad(p, q, m):
    """Put equal zeros after the first `m` pairs of two buffers; returns their number with these, in whole steps."""
    size = (m + LANES - 1) // LANES * LANES
    for i in range(m, size):
        p[i] = 0
        q[i] = 0
    return size


@_bare
def _survey_end(p, q, start):
    """As `survey`, of the elements from `start` on, one by one."""
    differ = 0
    special = np.int32(0)
    for i in range(start, p.size):
        differ += p[i] != q[i]
        special = _either(special, _either(_is_special(p[i]), _is_special(q[i])))
    return differ, special


@_bare
def _maxima(p, q, place, placed, start, sums, counts, u, f, at, top):
    """Find where `dense` met a greater difference or ULP distance than is known."""
    if sums[40] > f[5]:
        f[5] = sums[40]
        i = 0
        while _size(np.float64(_load(p[i])) - np.float64(_load(q[i]))) != f[5]:
            i += 1
        at[0] = start + (place[i] if placed else i)
    if counts[2] > np.int64(top[0]):
        top[0] = u[0] = counts[2]
        i = _where_ulp(p, q, u[0])
        at[2] = start + (place[i] if placed else i)


@_bare
def _note_first(p, q, m, place, placed, start, firsts):
    """Keep the first mismatches of a block."""
    for i in range(m):
        if _ulps(p[i], q[i]) != 0:
            index = start + (place[i] if placed else i)
            if index > firsts[firsts.size - 1]:
                break
            _note(firsts, index)


def work_arrays(bits: str, distance: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a dtype
    """What `vector_chunk` works in, for one thread.

    Args:
        bits: the dtype that its elements come in.
        distance: that of its `u`.
    """
    room = BLOCK + LANES
    word = np.uint32 if np.dtype(bits).itemsize == 4 else np.uint16
    return (
        np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(6, np.float32), np.empty(BLOCK),
        np.empty(BLOCK, np.uint16), np.empty(room, word), np.empty(BLOCK, distance), np.empty(BLOCK, np.uint32),
        np.empty(room, bits), np.empty(room, bits), np.empty(BLOCK, np.int64),
        np.empty(room, bits), np.empty(room, bits), np.empty(room, np.uint16), np.empty(BLOCK, np.int64),
        np.zeros(41), np.zeros(8), np.zeros(3, np.int64),
    )  # fmt: skip


@_bare
def vector_chunk(  # noqa: C901, PLR0912, PLR0915 - handing all these arrays to a function costs as much as a block
    a, b, x, y, u, rtols, atols, wide_atols, easy_rtols, easy_atols, calm, tiny, failed, h, base,
    g, ulp_shift, ulp_base, limit, f, at, n, top, firsts, work,
):  # fmt: skip
    """One chunk of floats of 16 or 32 bits: the outputs of `float_chunk`. ULP distances below `limit` count as none.

    A block in which less than half of the pairs differ is reduced to those that do, after the squares of the others
    are summed.
    """
    (
        lines, thresholds, c, d, bins, tail, wide, ulp_bins, finite_a, finite_b, finite_place, few_a, few_b, few_place,
        place, sums, squares, counts,
    ) = work  # fmt: skip
    sums[:] = 0.0
    squares[:] = 0.0
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        size = m // LANES * LANES  # a step never straddles the end
        differ, special = survey(p, q, size)
        placed = special != 0
        if size != m:
            end_differ, end_special = _survey_end(p, q, size)
            differ += end_differ
            placed = placed or end_special != 0
        n[3] |= differ != 0
        if placed:
            m = _compact(p, q, finite_a, finite_b, finite_place, n[4:], failed, firsts, start)
            for i in range(m):
                place[i] = finite_place[i]
        elif size != m:
            for i in range(m):
                finite_a[i] = p[i]
                finite_b[i] = q[i]
        if placed or size != m:
            size = _pad(finite_a, finite_b, m)
            p, q = finite_a, finite_b
        n[0] += m
        if differ * 2 < m:
            few = split(p, q, size, few_a, few_b, few_place, squares)
            h[0, 0] += m - few
            g[0, 0] += m - few
            for i in range(few):
                place[i] = finite_place[few_place[i]] if placed else np.int64(few_place[i])
            m, placed = few, True
            size = _pad(few_a, few_b, m)
            p, q = few_a, few_b
        if m == 0:
            continue
        known = _slopes(lines, thresholds, failed, easy_rtols, easy_atols, wide_atols, calm, f)
        distant = dense(p, q, size, lines, tiny, limit[0], base, bins, tail, sums, counts)
        if limit[0] == 0:
            distant -= size - m  # the padding, at the end
        n[1] += counts[0]
        n[2] += counts[1]
        if sums[40] > f[5] or counts[2] > np.int64(top[0]):
            _maxima(p, q, place, placed, start, sums, counts, u, f, at, top)
        beyond = lines[0] > thresholds[0] or lines[1] > thresholds[1] or lines[2] > thresholds[2]
        if beyond or not known or f[5] >= calm:
            _events(p, q, m, place, placed, start, x, y, d, c, tiny, rtols, atols, wide_atols, easy_rtols, easy_atols,
                    calm, failed, f, at)  # fmt: skip
        _scatter(bins, h, m)
        g[0, 0] += m - distant
        _far(tail, distant, wide, ulp_bins, g, ulp_shift, ulp_base)
        if firsts[firsts.size - 1] > start and counts[0]:
            _note_first(p, q, m, place, placed, start, firsts)
    for k in range(8):
        f[0] += sums[k]
        f[1] += sums[8 + k] + squares[k]
        f[2] += sums[16 + k] + squares[k]
        f[3] += sums[24 + k] + squares[k]
        f[4] += sums[32 + k]


@njit(nogil=True, cache=_CACHE)
def _same(a, b):
    apart = np.int32(0)
    for i in range(a.size):
        apart = _either(apart, _apart(a[i], b[i]))
    return apart == 0


@njit(nogil=True, cache=_CACHE)
def _convert(a, x):
    for i in range(a.size):
        x[i] = a[i]


@njit(nogil=True, cache=_CACHE)
def int_chunk(a, b, atols, h, shift, base, f, at, n, firsts):
    """One chunk of integers of 16 to 64 bits, the same outputs as `float_chunk`'s."""
    x = np.empty(BLOCK)
    y = np.empty(BLOCK)
    d = np.empty(BLOCK)
    c = np.zeros(6)
    bins = np.empty(BLOCK, np.uint32)
    place = np.empty(1, np.int64)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        _ahead(a, b, start, m)
        n[0] += m
        _convert(p, x)
        if _same(p, q):
            square = _squares(x, m)
            f[1] += square
            f[2] += square
            f[3] += square
            h[0, 0] += m
            continue
        n[3] = 1
        _convert(q, y)
        total, aa, bb, ab, dd = _sums(x, y, d, bins, shift, base, m)
        if a.itemsize == 8:
            total, dd = _gaps(p, q, d, bins, shift, base, m)
            # The numbers as float64 may be equal where the integers are not: let every block pass the screen.
            c[5] = 2.0**64
        f[0] += total
        f[1] += aa
        f[2] += bb
        f[3] += ab
        f[4] += dd
        _common(x, y, d, c, place, False, start, bins, h, atols, f, at, n, firsts, m)


@njit(nogil=True, cache=_CACHE)
def pair_chunk(a, b, h):
    """Count the 65,536 possible pairs of two uint8 arrays: all their metrics follow from these counts."""
    four = a.size // 4 * 4
    for i in range(0, four, 4):
        if i & 63 == 0:
            fetch(a, i + AHEAD)
            fetch(b, i + AHEAD)
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
        h[1, (np.uint64(a[i + 1]) << np.uint64(8)) | np.uint64(b[i + 1])] += 1
        h[2, (np.uint64(a[i + 2]) << np.uint64(8)) | np.uint64(b[i + 2])] += 1
        h[3, (np.uint64(a[i + 3]) << np.uint64(8)) | np.uint64(b[i + 3])] += 1
    for i in range(four, a.size):
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
