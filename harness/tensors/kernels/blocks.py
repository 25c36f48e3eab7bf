"""What is done to one block of two tensors, by every kernel."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels.compiler import CACHE, SUM, bare
from harness.tensors.kernels.intrinsics import (
    above,
    beyond,
    bin_of,
    bits,
    bits_apart,
    distance,
    either,
    gap,
    greater,
    is_special,
    load,
    not_close,
    plus,
    screen_slope,
    size,
    ulp_bin,
    ulps,
)
from harness.tensors.kernels.vectors import AHEAD, fetch


@bare
def look(a, b):
    """Whether any bits differ, and whether anything is not finite."""
    apart = np.int32(0)
    special = np.int32(0)
    for i in range(a.size):
        apart = either(apart, bits_apart(a[i], b[i]))
        special = either(special, either(is_special(a[i]), is_special(b[i])))
    return apart, special


@bare
def ahead(a, b, start, m):
    """Ask for the elements that will be needed in a while, as many as a block has."""
    for i in range(start, start + m, 64 // a.itemsize):
        fetch(a, i + AHEAD)
        fetch(b, i + AHEAD)


@bare
def decode_block(a, b, x, y, m):
    """Both sides as floats that can be computed with."""
    for i in range(m):
        x[i] = load(a[i])
        y[i] = load(b[i])


@njit(nogil=True, cache=CACHE, fastmath=SUM)
def squares(x, m):
    """Sum of squares."""
    total = 0.0
    for i in range(m):
        value = np.float64(x[i])
        total += value * value
    return total


@njit(nogil=True, cache=CACHE, fastmath=SUM)
def sums(x, y, d, bins, shift, base, m):
    """Fill the differences and their histogram bins; sum |a-b|, aa, bb, ab, (a-b)(a-b)."""
    total = aa = bb = ab = dd = 0.0
    for i in range(m):
        p = np.float64(x[i])
        q = np.float64(y[i])
        e = size(p - q)
        d[i] = e
        bins[i] = bin_of(e, shift, base)
        total += e
        aa += p * p
        bb += q * q
        ab += p * q
        dd += e * e
    return total, aa, bb, ab, dd


@njit(nogil=True, cache=CACHE, fastmath=SUM)
def gaps(a, b, d, bins, shift, base, m):
    """As `sums`, the differences of 64-bit integers, which float64 cannot hold before subtracting."""
    total = dd = 0.0
    for i in range(m):
        e = gap(a[i], b[i])
        d[i] = e
        bins[i] = bin_of(e, shift, base)
        total += e
        dd += e * e
    return total, dd


@njit(nogil=True, cache=CACHE)
def _counts(d, y, m):
    """Bits of the greatest difference, how many differ, how many of those have a reference of zero."""
    top = np.int64(0)
    differ = 0
    against_zero = 0
    for i in range(m):
        top = max(top, bits(d[i]))
        differ += d[i] != 0.0
        against_zero += (d[i] != 0.0) & (y[i] == 0.0)
    return top, differ, against_zero


@bare
def _any_beyond(d, y, ratio, atol, m):
    count = np.int32(0)
    for i in range(m):
        count = plus(count, beyond(ratio, size(np.float64(y[i])), d[i] - atol))
    return count


@bare
def _ratio(d, y, best, atol, infinite, m):
    """Greatest (d - atol) / |y| above `best`, and where; a reference of zero counts as infinite, or not at all."""
    place = -1
    for i in range(m):
        r = size(np.float64(y[i]))
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


@bare
def any_not_close(a, b, rtol, atol):
    """Whether any pair is not close."""
    count = np.int32(0)
    for i in range(a.size):
        count = plus(count, not_close(a[i], b[i], rtol, atol))  # LLVM vectorises a sum here, and no or
    return count


@njit(nogil=True, cache=CACHE)
def ulp_block(a, b, zero, bins, shift, base, m):
    """Fill the histogram bins of the distances; return the greatest distance. `zero` carries their type."""
    top = zero[0]
    for i in range(m):
        distance = ulps(a[i], b[i])
        bins[i] = ulp_bin(distance, shift, base)
        top = greater(top, distance)
    return top


@bare
def scatter(bins, h, m):
    """Count bins; four tables in turn, so that equal neighbours do not wait for one another."""
    four = m // 4 * 4
    for i in range(0, four, 4):
        h[0, bins[i]] += 1
        h[1, bins[i + 1]] += 1
        h[2, bins[i + 2]] += 1
        h[3, bins[i + 3]] += 1
    for i in range(four, m):
        h[0, bins[i]] += 1


@bare
def _scatter_sparse(bins, h, m):
    """As `scatter` for a block in which few elements differ: eights without any are counted as one."""
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


@bare
def compact(a, b, x, y, place, counts, failed, firsts, offset):
    """Copy the pairs in which both are finite, and count the others; returns how many were copied.

    `counts` gets NaN of a and b, +inf of a and b, -inf of a and b, places where the two are not special alike, and
    mismatches. A pair that is not finite is close only when it is the same infinity, whatever the tolerance.
    """
    m = 0
    for i in range(a.size):
        if is_special(a[i]) == 0 and is_special(b[i]) == 0:
            x[m] = a[i]
            y[m] = b[i]
            place[m] = i
            m += 1
            continue
        p = np.float64(load(a[i]))
        q = np.float64(load(b[i]))
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
        note(firsts, offset + i)
    return m


@bare
def note(firsts, index):
    """Keep the five smallest indices of a chunk; `firsts` is sorted and filled with a huge number."""
    slot = firsts.size
    while slot > 0 and firsts[slot - 1] > index:
        slot -= 1
    for i in range(firsts.size - 1, slot, -1):
        firsts[i] = firsts[i - 1]
    if slot < firsts.size:
        firsts[slot] = index


@bare
def where_ulp(a, b, wanted):
    """The first place with this ULP distance; -1 where there is none."""
    for i in range(a.size):
        if ulps(a[i], b[i]) == wanted:
            return i
    return -1


@bare
def _screen(x, y, c, m):
    """Whether (|a-b| - atol) / |b| may exceed any of three ratios: in the numbers' own width, and never a wrong no.

    `c` holds ratio, ratio, atol, ratio, atol, and what to add to a difference so that subnormals' roundings cannot hide
    it; the caller has made ratios and atols a little smaller than they are, more than float32 rounds.
    """
    count = np.int32(0)
    for i in range(m):
        d = distance(x[i], y[i]) + c[5]
        one = either(above(c[0], y[i], d), above(c[1], y[i], d - c[2]))
        count = plus(count, either(one, above(c[3], y[i], d - c[4])))
    return count


@bare
def any_above(x, y, rtol, atol, m):
    """Whether any |a-b| exceeds atol + rtol * |b|, in the numbers' own width."""
    count = np.int32(0)
    for i in range(m):
        count = plus(count, above(rtol, y[i], distance(x[i], y[i]) - atol))
    return count


@bare
def ratios(x, y, d, c, place, compacted, offset, atols, f, at, m):
    """Raise the greatest relative difference and the rtol that each rule needs, where this block has greater ones."""
    for first in range(0, max(atols.size, 1), 2):
        c[0] = screen_slope(f[6]) if first == 0 else np.inf
        for k in range(2):
            known = first + k < atols.size
            c[1 + 2 * k] = screen_slope(f[7 + first + k]) if known else np.inf
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


@njit(nogil=True, cache=CACHE)
def common(x, y, d, c, place, compacted, offset, bins, h, atols, f, at, n, firsts, m):
    """The metrics that floats and integers share, for one block of finite pairs; returns how many differ."""
    top, differ, against_zero = _counts(d, y, m)
    n[1] += differ
    n[2] += against_zero
    if differ == 0:
        h[0, 0] += m
        return differ
    if top > bits(f[5]):
        i = 0
        while bits(d[i]) != top:
            i += 1
        f[5] = d[i]
        at[0] = offset + (place[i] if compacted else i)
    ratios(x, y, d, c, place, compacted, offset, atols, f, at, m)
    if differ * 8 < m:
        _scatter_sparse(bins, h, m)
    else:
        scatter(bins, h, m)
    if firsts[firsts.size - 1] > offset:
        for i in range(m):
            if d[i] != 0.0:
                index = offset + (place[i] if compacted else i)
                if index > firsts[firsts.size - 1]:
                    break
                note(firsts, index)
    return differ
