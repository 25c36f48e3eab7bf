"""Compiled one-pass kernels for big tensors; `harness._passes` holds the same passes in plain NumPy, for small ones.

Everything here works on blocks that stay in the first-level cache: load a block of both sides once, then run short
loops that LLVM turns into vector code, one per metric. Sums restart with every chunk, and chunks do not depend on the
number of threads, so a result is the same on every run. Compiled code is kept in the user's cache folder.

bfloat16 comes in as int16 and float16 as uint16, so that a kernel can tell them apart by type.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.
# ruff: noqa: ANN001, ANN202, ARG001, C901, PLR0912, PLR0915, PLR0917

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def _cache_folder() -> Path | None:
    """Where compiled code is kept: the user's own cache folder, never a shared one, because loading it runs it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "colbert-torch-harness" / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


_FOLDER = _cache_folder()
if _FOLDER is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_FOLDER))

from llvmlite import ir  # type: ignore[import-untyped]  # noqa: E402 - numba reads its settings when it is imported
from numba import config, njit, types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

if not config.CACHE_DIR and _FOLDER is not None:  # numba was imported by somebody else before this module
    config.CACHE_DIR = str(_FOLDER)
_CACHE = bool(config.CACHE_DIR)

BLOCK = 2048
"""Elements per block: two float32 and three wider buffers of this length fit the first-level cache."""

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
def _beyond(_context, ratio, reference, excess):
    """1 where excess / reference > ratio, without a division: one rounding, so the sign is exact."""

    def generate(_c, builder, _s, args):
        rest = builder.fma(builder.fneg(args[0]), args[1], args[2])
        return builder.zext(builder.fcmp_ordered(">", rest, _F64(0.0)), _I32)

    return types.int32(types.float64, types.float64, types.float64), generate


@intrinsic
def _gap(_context, a, b):
    """Distance of two 64-bit integers as a float64; exact before the one rounding to float64."""

    def generate(_c, builder, _s, args):
        less = builder.icmp_signed if a.signed else builder.icmp_unsigned
        x, y = args
        return builder.uitofp(builder.select(less("<", x, y), builder.sub(y, x), builder.sub(x, y)), _F64)

    return types.float64(a, b), generate


@njit(nogil=True, cache=_CACHE)
def _look(a, b):
    """Whether any bits differ, and whether anything is not finite."""
    apart = np.int32(0)
    special = np.int32(0)
    for i in range(a.size):
        apart = _either(apart, _apart(a[i], b[i]))
        special = _either(special, _either(_is_special(a[i]), _is_special(b[i])))
    return apart, special


@njit(nogil=True, cache=_CACHE)
def _decode_block(a, b, x, y):
    for i in range(a.size):
        x[i] = _load(a[i])
        y[i] = _load(b[i])


@njit(nogil=True, cache=_CACHE, fastmath=_SUM)
def _squares(x):
    total = 0.0
    for i in range(x.size):
        value = np.float64(x[i])
        total += value * value
    return total


@njit(nogil=True, cache=_CACHE, fastmath=_SUM)
def _sums(x, y, d, r):
    """Fill the differences and the sizes of the references; sum |a-b|, aa, bb, ab, (a-b)(a-b)."""
    total = aa = bb = ab = dd = 0.0
    for i in range(x.size):
        p = np.float64(x[i])
        q = np.float64(y[i])
        e = _size(p - q)
        d[i] = e
        r[i] = _size(q)
        total += e
        aa += p * p
        bb += q * q
        ab += p * q
        dd += e * e
    return total, aa, bb, ab, dd


@njit(nogil=True, cache=_CACHE, fastmath=_SUM)
def _gaps(a, b, d):
    """As `_sums`, the differences of 64-bit integers, which float64 cannot hold before subtracting."""
    total = dd = 0.0
    for i in range(a.size):
        e = _gap(a[i], b[i])
        d[i] = e
        total += e
        dd += e * e
    return total, dd


@njit(nogil=True, cache=_CACHE)
def _counts(d, r):
    """Bits of the greatest difference, how many differ, how many of those have a reference of zero."""
    top = np.int64(0)
    differ = 0
    against_zero = 0
    for i in range(d.size):
        top = max(top, _bits(d[i]))
        differ += d[i] != 0.0
        against_zero += (d[i] != 0.0) & (r[i] == 0.0)
    return top, differ, against_zero


@njit(nogil=True, cache=_CACHE)
def _any_beyond(d, r, ratio, atol):
    count = np.int32(0)
    for i in range(d.size):
        count = _plus(count, _beyond(ratio, r[i], d[i] - atol))
    return count


@njit(nogil=True, cache=_CACHE)
def _ratio(d, r, best, atol, infinite):
    """Greatest (d - atol) / r above `best`, and where; a reference of zero counts as infinite, or not at all."""
    place = -1
    for i in range(d.size):
        if r[i] > 0.0:
            value = (d[i] - atol) / r[i]
        elif infinite and d[i] > atol:
            value = np.inf
        else:
            value = 0.0
        if value > best:
            best = value
            place = i
    return best, place


@njit(nogil=True, cache=_CACHE)
def _any_not_close(a, b, rtol, atol):
    count = np.int32(0)
    for i in range(a.size):
        count = _plus(count, _not_close(a[i], b[i], rtol, atol))  # LLVM vectorises a sum here, and no or
    return count


@njit(nogil=True, cache=_CACHE)
def _ulp_block(a, b, u):
    u[0] = 0
    top = u[0]
    for i in range(a.size):
        distance = _ulps(a[i], b[i])
        u[i] = distance
        top = _greater(top, distance)
    return top


@njit(nogil=True, cache=_CACHE)
def _bins(values, shift, base, bins):
    """Histogram bin of each non-negative float64: exponent and leading mantissa bits, counted from `base`."""
    for i in range(values.size):
        bins[i] = max((_bits(np.float64(values[i])) >> shift) - base, 0)


@njit(nogil=True, cache=_CACHE)
def _scatter(bins, h):
    """Count bins; four tables in turn, so that equal neighbours do not wait for one another."""
    four = bins.size // 4 * 4
    for i in range(0, four, 4):
        h[0, bins[i]] += 1
        h[1, bins[i + 1]] += 1
        h[2, bins[i + 2]] += 1
        h[3, bins[i + 3]] += 1
    for i in range(four, bins.size):
        h[0, bins[i]] += 1


@njit(nogil=True, cache=_CACHE)
def _scatter_sparse(bins, h):
    """As `_scatter` for a block in which few elements differ: eights without any are counted as one."""
    eights = bins.size // 8 * 8
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
    for i in range(eights, bins.size):
        h[0, bins[i]] += 1
    h[0, 0] += zeros


@njit(nogil=True, cache=_CACHE)
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
        failed[:] = True
        _note(firsts, offset + i)
    return m


@njit(nogil=True, cache=_CACHE)
def _note(firsts, index):
    """Keep the five smallest indices of a chunk; `firsts` is sorted and filled with a huge number."""
    slot = firsts.size
    while slot > 0 and firsts[slot - 1] > index:
        slot -= 1
    for i in range(firsts.size - 1, slot, -1):
        firsts[i] = firsts[i - 1]
    if slot < firsts.size:
        firsts[slot] = index


@njit(nogil=True, cache=_CACHE)
def _where(values, wanted):
    for i in range(values.size):
        if values[i] == wanted:
            return i
    return -1


@njit(nogil=True, cache=_CACHE)
def _common(d, r, place, compacted, offset, bins, h, shift, base, atols, f, at, n, firsts):
    """The metrics that floats and integers share, for one block of finite pairs; returns how many differ."""
    top, differ, against_zero = _counts(d, r)
    n[1] += differ
    n[2] += against_zero
    if differ == 0:
        h[0, 0] += d.size
        return differ
    if top > _bits(f[5]):
        i = 0
        while _bits(d[i]) != top:
            i += 1
        f[5] = d[i]
        at[0] = offset + (place[i] if compacted else i)
    if _any_beyond(d, r, f[6], 0.0):
        f[6], i = _ratio(d, r, f[6], 0.0, False)
        if i >= 0:
            at[1] = offset + (place[i] if compacted else i)
    for k in range(atols.size):
        if f[7 + k] < np.inf and _any_beyond(d, r, f[7 + k], atols[k]):
            f[7 + k], i = _ratio(d, r, f[7 + k], atols[k], True)
            if i >= 0:
                at[3 + k] = offset + (place[i] if compacted else i)
    _bins(d, shift, base, bins)
    if differ * 8 < d.size:
        _scatter_sparse(bins, h)
    else:
        _scatter(bins, h)
    if firsts[firsts.size - 1] > offset:
        for i in range(d.size):
            if d[i] != 0.0:
                index = offset + (place[i] if compacted else i)
                if index > firsts[firsts.size - 1]:
                    break
                _note(firsts, index)
    return differ


@njit(nogil=True, cache=_CACHE)
def float_chunk(
    a,
    b,
    x,
    y,
    u,
    rtols,
    atols,
    wide_atols,
    easy_rtols,
    easy_atols,
    calm,
    failed,
    h,
    shift,
    base,
    g,
    ulp_shift,
    ulp_base,
    f,
    at,
    n,
    top,
    firsts,
):
    """One chunk of floats; see `harness.metrics._Sink` for what the output arrays mean."""
    d = np.empty(BLOCK)
    r = np.empty(BLOCK)
    bins = np.empty(BLOCK, np.uint64)  # unsigned, or numba checks each index for being negative
    place = np.empty(BLOCK, np.int64)
    ca = np.empty(BLOCK, a.dtype)
    cb = np.empty(BLOCK, b.dtype)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        apart, special = _look(p, q)
        if apart:
            n[3] = 1
        compacted = special != 0
        if compacted:
            m = _compact(p, q, ca, cb, place, n[4:], failed, firsts, start)
            p = ca[:m]
            q = cb[:m]
        m = p.size
        n[0] += m
        _decode_block(p, q, x[:m], y[:m])
        if not apart:
            square = _squares(x[:m])
            f[1] += square
            f[2] += square
            f[3] += square
            h[0, 0] += m
            g[0, 0] += m
            continue
        total, aa, bb, ab, dd = _sums(x[:m], y[:m], d[:m], r[:m])
        f[0] += total
        f[1] += aa
        f[2] += bb
        f[3] += ab
        f[4] += dd
        differ = _common(d[:m], r[:m], place, compacted, start, bins[:m], h, shift, base, wide_atols, f, at, n, firsts)
        if differ == 0:
            g[0, 0] += m
            continue
        for k in range(rtols.size):
            # A cheaper test first, strict enough to imply torch's whatever it rounds; blocks of close tensors pass.
            easy = failed[k] or (f[5] < calm and not _any_beyond(d[:m], r[:m], easy_rtols[k], easy_atols[k]))
            if not easy and _any_not_close(p, q, rtols[k], atols[k]):
                failed[k] = True
        highest = _ulp_block(p, q, u[:m])
        if highest > top[0]:
            top[0] = highest
            i = _where(u[:m], highest)
            at[2] = start + (place[i] if compacted else i)
        _bins(u[:m], ulp_shift, ulp_base, bins[:m])
        if differ * 8 < m:
            _scatter_sparse(bins[:m], g)
        else:
            _scatter(bins[:m], g)


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
    r = np.empty(BLOCK)
    bins = np.empty(BLOCK, np.uint64)  # unsigned, or numba checks each index for being negative
    place = np.empty(1, np.int64)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        n[0] += m
        _convert(p, x[:m])
        if _same(p, q):
            square = _squares(x[:m])
            f[1] += square
            f[2] += square
            f[3] += square
            h[0, 0] += m
            continue
        n[3] = 1
        _convert(q, y[:m])
        total, aa, bb, ab, dd = _sums(x[:m], y[:m], d[:m], r[:m])
        if a.itemsize == 8:
            total, dd = _gaps(p, q, d[:m])
        f[0] += total
        f[1] += aa
        f[2] += bb
        f[3] += ab
        f[4] += dd
        _common(d[:m], r[:m], place, False, start, bins[:m], h, shift, base, atols, f, at, n, firsts)


@njit(nogil=True, cache=_CACHE)
def pair_chunk(a, b, h):
    """Count the 65,536 possible pairs of two uint8 arrays: all their metrics follow from these counts."""
    four = a.size // 4 * 4
    for i in range(0, four, 4):
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
        h[1, (np.uint64(a[i + 1]) << np.uint64(8)) | np.uint64(b[i + 1])] += 1
        h[2, (np.uint64(a[i + 2]) << np.uint64(8)) | np.uint64(b[i + 2])] += 1
        h[3, (np.uint64(a[i + 3]) << np.uint64(8)) | np.uint64(b[i + 3])] += 1
    for i in range(four, a.size):
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
