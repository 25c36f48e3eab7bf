"""The kernel for floats of 16 and 32 bits: a survey in vector code, and a closer look where something may differ."""

from __future__ import annotations

import numpy as np

from harness.tensors.kernels import blocks
from harness.tensors.kernels import intrinsics as op
from harness.tensors.kernels import vectors as vec
from harness.tensors.kernels.compiler import BLOCK, aligned, bare
from harness.tensors.kernels.emit import EIGHT
from harness.tensors.kernels.records import Buffers, Places


@bare
def _slopes(lines, thresholds, rules, terms, found):
    """Set the lines |a-b| = threshold + slope * |b| below which nothing new can happen; False where that is not known.

    Below a line no maximum is raised, and no verdict that is still yes becomes no. Slopes and thresholds are a little
    smaller than what they stand for, more than float32 rounds. Two rules have a line; with more, nothing is known.
    """
    known = rules.size <= vec.LINES - vec.FIRST_RULE
    lines[vec.RELATIVE] = op.screen_slope(found.max_rel)
    thresholds[vec.RELATIVE] = 0.0
    for k in range(vec.LINES - vec.FIRST_RULE):
        lines[vec.FIRST_RULE + k] = np.inf
        thresholds[vec.FIRST_RULE + k] = 0.0
        if k >= rules.size:
            continue
        rule = rules[k]
        slope = op.screen_slope(rule.needed)
        threshold = rule.atol * (1 - 2.0**-20)
        if not rule.failed:
            slope = min(slope, np.float64(rule.easy_rtol))
            threshold = min(threshold, np.float64(rule.easy_atol))
            known = known and threshold >= 0.0 and found.max_abs < terms.calm
        lines[vec.FIRST_RULE + k] = slope
        thresholds[vec.FIRST_RULE + k] = threshold
    return known


@bare
def _tally_distances(p, q, m, size, work, tally, terms):
    """Count the ULP distances of the first `m` pairs; `dense` has left them, with those of equal zeros up to `size`."""
    if tally.edges.size:
        vec.at_least(work.distances, size, tally.edges, tally.above)
        return
    for i in range(m):
        work.wide[i] = op.ulps(p[i], q[i])
        work.ulp_bins[i] = op.ulp_bin(work.wide[i], terms.ulp_shift, terms.ulp_base)
    blocks.scatter(work.ulp_bins, tally.table, m)


@bare
def _events(p, q, m, block, places, rules, terms, found):
    """What `dense` found some reason to look at: ratios that may be greater, verdicts that may turn to no."""
    x, y, d = block.x, block.y, block.d
    blocks.decode_block(p, q, x, y, m)
    for i in range(m):
        d[i] = op.size(np.float64(x[i]) - np.float64(y[i]))
    blocks.ratios(block, places, rules, found, m)
    blocks.judge(p, q, block, rules, terms, found, m)


@bare
def _pad(p, q, m):
    """Put equal zeros after the first `m` pairs of two buffers; returns their number with these, in whole steps."""
    size = (m + vec.LANES - 1) // vec.LANES * vec.LANES
    for i in range(m, size):
        p[i] = 0
        q[i] = 0
    return size


@bare
def _survey_end(p, q, start):
    """As `survey`, of the elements from `start` on, one by one."""
    differ = 0
    special = np.int32(0)
    for i in range(start, p.size):
        differ += p[i] != q[i]
        special = op.either(special, op.either(op.is_special(p[i]), op.is_special(q[i])))
    return differ, special


@bare
def _maxima(p, q, places, sums, counts, found):
    """Find where `dense` met a greater difference or ULP distance than is known."""
    if sums[vec.GREATEST] > found.max_abs:
        found.max_abs = sums[vec.GREATEST]
        i = 0
        while op.size(np.float64(op.load(p[i])) - np.float64(op.load(q[i]))) != found.max_abs:
            i += 1
        found.max_abs_at = blocks.position(places, i)
    if counts[vec.FARTHEST] > np.int64(found.max_ulp):
        found.max_ulp = counts[vec.FARTHEST]
        found.max_ulp_at = blocks.position(places, blocks.where_ulp(p, q, found.max_ulp))


@bare
def _note_first(p, q, m, places, firsts):
    """Keep the first mismatches of a block."""
    for i in range(m):
        if op.ulps(p[i], q[i]) != 0:
            index = blocks.position(places, i)
            if index > firsts[firsts.size - 1]:
                break
            blocks.note(firsts, index)


def buffers(bits: str) -> Buffers:
    """What `vector_chunk` works in, for one thread; `bits` is the dtype that its elements come in."""
    room = BLOCK + vec.LANES
    word, distance = (np.uint32, np.uint64) if np.dtype(bits).itemsize == 4 else (np.uint16, np.uint32)
    return Buffers(
        lines=np.zeros(vec.LINES, np.float32), thresholds=np.zeros(vec.LINES, np.float32),
        bins=aligned(BLOCK, np.uint16), distances=aligned(BLOCK, word),
        wide=aligned(BLOCK, distance), ulp_bins=aligned(BLOCK, np.uint32),
        finite_a=aligned(room, bits), finite_b=aligned(room, bits), finite_place=aligned(BLOCK, np.int64),
        few_a=aligned(room, bits), few_b=aligned(room, bits), few_place=aligned(room, np.uint16),
        place=aligned(BLOCK, np.int64),
        sums=np.zeros(vec.GREATEST + 1), squares=np.zeros(EIGHT), counts=np.zeros(vec.FARTHEST + 1, np.int64),
    )  # fmt: skip


@bare
def vector_chunk(a, b, state):  # noqa: C901, PLR0912, PLR0915 - handing arrays to a function costs as much as a block
    """One chunk of floats of 16 or 32 bits.

    A block in which less than half of the pairs differ is reduced to those that do, after the squares of the others
    are summed.
    """
    block, rules, terms, found, differences, ulps, work = state
    lines, thresholds, place, sums, counts = work.lines, work.thresholds, work.place, work.sums, work.counts
    sums[:] = 0.0
    work.squares[:] = 0.0
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        size = m // vec.LANES * vec.LANES  # a step never straddles the end
        differ, special = vec.survey(p, q, size)
        placed = special != 0
        if size != m:
            end_differ, end_special = _survey_end(p, q, size)
            differ += end_differ
            placed = placed or end_special != 0
        found.bits_apart |= differ != 0
        if placed:
            m = blocks.compact(p, q, work.finite_a, work.finite_b, work.finite_place, start, rules, found)
            for i in range(m):
                place[i] = work.finite_place[i]
        elif size != m:
            for i in range(m):
                work.finite_a[i] = p[i]
                work.finite_b[i] = q[i]
        if placed or size != m:
            size = _pad(work.finite_a, work.finite_b, m)
            p, q = work.finite_a, work.finite_b
        found.finite += m
        if differ * 2 < m:
            few = vec.split(p, q, size, work.few_a, work.few_b, work.few_place, work.squares)
            differences.table[0, 0] += m - few
            ulps.table[0, 0] += m - few
            for i in range(few):
                place[i] = work.finite_place[work.few_place[i]] if placed else np.int64(work.few_place[i])
            m, placed = few, True
            size = _pad(work.few_a, work.few_b, m)
            p, q = work.few_a, work.few_b
        if m == 0:
            continue
        places = Places(place, placed, start)
        known = _slopes(lines, thresholds, rules, terms, found)
        vec.dense(
            p, q, size, block.x, block.y, lines, block.screen.lift, terms.base, work.bins, work.distances, sums, counts
        )
        found.differ += counts[vec.DIFFER]
        found.against_zero += counts[vec.AGAINST_ZERO]
        if sums[vec.GREATEST] > found.max_abs or counts[vec.FARTHEST] > np.int64(found.max_ulp):
            _maxima(p, q, places, sums, counts, found)
        beyond = lines[0] > thresholds[0] or lines[1] > thresholds[1] or lines[2] > thresholds[2]
        if beyond or not known or found.max_abs >= terms.calm:
            _events(p, q, m, block, places, rules, terms, found)
        if differences.edges.size:
            vec.at_least(work.bins, size, differences.edges, differences.above)
        else:
            blocks.scatter(work.bins, differences.table, m)
        _tally_distances(p, q, m, size, work, ulps, terms)
        if found.firsts[found.firsts.size - 1] > start and counts[vec.DIFFER]:
            _note_first(p, q, m, places, found.firsts)
    for k in range(EIGHT):
        found.sum_abs += sums[vec.ABS + k]
        found.sum_aa += sums[vec.AA + k] + work.squares[k]
        found.sum_bb += sums[vec.BB + k] + work.squares[k]
        found.sum_ab += sums[vec.AB + k] + work.squares[k]
        found.sum_dd += sums[vec.DD + k]
