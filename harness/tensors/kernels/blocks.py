"""What is done to one block of two tensors, by every kernel."""

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels import intrinsics as op
from harness.tensors.kernels.compiler import CACHE, SUM, bare
from harness.tensors.kernels.vectors import AHEAD, LANES, at_least, fetch


@bare
def look(a, b):
    """Whether any bits differ, and whether anything is not finite."""
    apart = np.int32(0)
    special = np.int32(0)
    for i in range(a.size):
        apart = op.either(apart, op.bits_apart(a[i], b[i]))
        special = op.either(special, op.either(op.is_special(a[i]), op.is_special(b[i])))
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
        x[i] = op.load(a[i])
        y[i] = op.load(b[i])


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
        e = op.size(p - q)
        d[i] = e
        bins[i] = op.bin_of(e, shift, base)
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
        e = op.gap(a[i], b[i])
        d[i] = e
        bins[i] = op.bin_of(e, shift, base)
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
        top = max(top, op.bits(d[i]))
        differ += d[i] != 0.0
        against_zero += (d[i] != 0.0) & (y[i] == 0.0)
    return top, differ, against_zero


@bare
def _any_beyond(d, y, ratio, atol, m):
    count = np.int32(0)
    for i in range(m):
        count = op.plus(count, op.beyond(ratio, op.size(np.float64(y[i])), d[i] - atol))
    return count


@bare
def _ratio(d, y, best, atol, infinite, m):
    """Greatest (d - atol) / |y| above `best`, and where; a reference of zero counts as infinite, or not at all."""
    place = -1
    for i in range(m):
        r = op.size(np.float64(y[i]))
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
def _any_not_close(a, b, rtol, atol):
    """Whether any pair is not close."""
    count = np.int32(0)
    for i in range(a.size):
        count = op.plus(count, op.not_close(a[i], b[i], rtol, atol))  # LLVM vectorises a sum here, and no or
    return count


@njit(nogil=True, cache=CACHE)
def ulp_block(a, b, bins, shift, base, m):
    """Fill the histogram bins of the distances of float64; return the greatest distance."""
    top = np.uint64(0)
    for i in range(m):
        distance = op.ulps(a[i], b[i])
        bins[i] = op.ulp_bin(distance, shift, base)
        top = op.greater(top, distance)
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
def compact(a, b, x, y, place, offset, rules, found):
    """Copy the pairs in which both are finite, and count the others; returns how many were copied.

    A pair that is not finite is close only when it is the same infinity, whatever the tolerance.
    """
    m = 0
    for i in range(a.size):
        if op.is_special(a[i]) == 0 and op.is_special(b[i]) == 0:
            x[m] = a[i]
            y[m] = b[i]
            place[m] = i
            m += 1
            continue
        p = np.float64(op.load(a[i]))
        q = np.float64(op.load(b[i]))
        found.nan_a += p != p  # noqa: PLR0124 - the test for NaN
        found.nan_b += q != q  # noqa: PLR0124
        found.up_a += p == np.inf
        found.up_b += q == np.inf
        found.down_a += p == -np.inf
        found.down_b += q == -np.inf
        if p == q:
            continue
        both_nan = p != p and q != q  # noqa: PLR0124
        found.special_apart += not both_nan
        found.special_differ += 1
        for k in range(rules.size):
            rules[k].failed = True
        note(found.firsts, offset + i)
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
        if op.ulps(a[i], b[i]) == wanted:
            return i
    return -1


@bare
def position(places, i):
    """Where in the chunk a block's pair is."""
    return places.start + (places.index[i] if places.kept else i)


@bare
def _screen(block, m):
    """Whether (|a-b| - atol) / |b| may exceed any of three ratios: in the numbers' own width, and never a wrong no.

    The caller has made ratios and atols a little smaller than they are, more than float32 rounds.
    """
    x, y, screen = block.x, block.y, block.screen
    count = np.int32(0)
    for i in range(m):
        d = op.distance(x[i], y[i]) + screen.lift
        one = op.either(op.above(screen.relative, y[i], d), op.above(screen.slope_1, y[i], d - screen.atol_1))
        count = op.plus(count, op.either(one, op.above(screen.slope_2, y[i], d - screen.atol_2)))
    return count


@bare
def _any_above(x, y, rtol, atol, m):
    """Whether any |a-b| exceeds atol + rtol * |b|, in the numbers' own width."""
    count = np.int32(0)
    for i in range(m):
        count = op.plus(count, op.above(rtol, y[i], op.distance(x[i], y[i]) - atol))
    return count


@bare
def _screened(rules, k):
    """A rule's ratio and atol for the screen; one that is not there lets everything pass."""
    if k < rules.size:
        return op.screen_slope(rules[k].needed), rules[k].atol * (1 - 2.0**-20)
    return np.inf, 0.0


@bare
def raise_ratio(d, y, places, found, m):
    """Raise the greatest relative difference where this block has a greater one."""
    if _any_beyond(d, y, found.max_rel, 0.0, m):
        found.max_rel, i = _ratio(d, y, found.max_rel, 0.0, False, m)
        if i >= 0:
            found.max_rel_at = position(places, i)


@bare
def ratios(block, places, rules, found, m):
    """Raise the greatest relative difference and the rtol that each rule needs, where this block has greater ones."""
    y, d, screen = block.y, block.d, block.screen
    for first in range(0, max(rules.size, 1), 2):
        screen.relative = op.screen_slope(found.max_rel) if first == 0 else np.inf
        screen.slope_1, screen.atol_1 = _screened(rules, first)
        screen.slope_2, screen.atol_2 = _screened(rules, first + 1)
        if not _screen(block, m):
            continue
        if first == 0:
            raise_ratio(d, y, places, found, m)
        for k in range(first, min(first + 2, rules.size)):
            rule = rules[k]
            if rule.needed < np.inf and _any_beyond(d, y, rule.needed, rule.atol, m):
                rule.needed, i = _ratio(d, y, rule.needed, rule.atol, True, m)
                if i >= 0:
                    rule.needed_at = position(places, i)


@bare
def judge(a, b, block, rules, terms, found, m):
    """Mark the rules that a pair of this block does not meet, as torch computes it."""
    for k in range(rules.size):
        rule = rules[k]
        if rule.failed:
            continue
        # A cheaper test first, strict enough to imply torch's whatever it rounds; blocks of close tensors pass.
        easy = found.max_abs < terms.calm and not _any_above(block.x, block.y, rule.easy_rtol, rule.easy_atol, m)
        if not easy and _any_not_close(a[:m], b[:m], rule.torch_rtol, rule.torch_atol):
            rule.failed = True


@bare
def add_squares(found, square):
    """Add the squares of numbers that are the same on both sides."""
    found.sum_aa += square
    found.sum_bb += square
    found.sum_ab += square


@njit(nogil=True, cache=CACHE)
def common(block, places, bins, counts, rules, found, m):
    """The metrics that floats and integers share, for one block of finite pairs; returns how many differ."""
    d = block.d
    top, differ, against_zero = _counts(d, block.y, m)
    found.differ += differ
    found.against_zero += against_zero
    if differ == 0:
        counts.table[0, 0] += m
        return differ
    raise_greatest(d, top, places, found)
    ratios(block, places, rules, found, m)
    count_bins(bins, counts, differ, m)
    note_first(d, places, found, m)
    return differ


@bare
def raise_greatest(d, top, places, found):
    """Raise the greatest difference where this block has a greater one; `top` is the bits of the block's."""
    if top > op.bits(found.max_abs):
        i = 0
        while op.bits(d[i]) != top:
            i += 1
        found.max_abs = d[i]
        found.max_abs_at = position(places, i)


@bare
def count_bins(bins, counts, differ, m):
    """Count the bins of a block in which so many differ; `bins` has room for whole steps."""
    if counts.edges.size:
        size = (m + LANES - 1) // LANES * LANES
        bins[m:size] = 0  # those of another block, which are at no edge now
        at_least(bins, size, counts.edges, counts.above)
    elif differ * 8 < m:
        _scatter_sparse(bins, counts.table, m)
    else:
        scatter(bins, counts.table, m)


@bare
def note_first(d, places, found, m):
    """Keep the first mismatches of a block."""
    firsts = found.firsts
    if firsts[firsts.size - 1] > places.start:
        for i in range(m):
            if d[i] != 0.0:
                index = position(places, i)
                if index > firsts[firsts.size - 1]:
                    break
                note(firsts, index)
