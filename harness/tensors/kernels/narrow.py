"""The kernel for floats of 16 and 32 bits: a survey in vector code, and a closer look where something may differ."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from typing import Any

import numpy as np

from harness.tensors.kernels.blocks import (
    any_above,
    any_not_close,
    compact,
    decode_block,
    note,
    ratios,
    scatter,
    where_ulp,
)
from harness.tensors.kernels.compiler import BLOCK, bare
from harness.tensors.kernels.intrinsics import either, is_special, load, screen_slope, size, ulp_bin, ulps
from harness.tensors.kernels.vectors import LANES, dense, split, survey


@bare
def _slopes(lines, thresholds, failed, easy_rtols, easy_atols, atols, calm, f):
    """Set the lines |a-b| = threshold + slope * |b| below which nothing new can happen; False where that is not known.

    Below a line no maximum is raised, and no verdict that is still yes becomes no. Slopes and thresholds are a little
    smaller than what they stand for, more than float32 rounds. Two rules have a line; with more, nothing is known.
    """
    known = atols.size <= 2
    lines[0] = screen_slope(f[6])
    thresholds[0] = 0.0
    for k in range(2):
        lines[1 + k] = np.inf
        thresholds[1 + k] = 0.0
        if k >= atols.size:
            continue
        slope = screen_slope(f[7 + k])
        threshold = atols[k] * (1 - 2.0**-20)
        if not failed[k]:
            slope = min(slope, np.float64(easy_rtols[k]))
            threshold = min(threshold, np.float64(easy_atols[k]))
            known = known and threshold >= 0.0 and f[5] < calm
        lines[1 + k] = slope
        thresholds[1 + k] = threshold
    return known


@bare
def _far(tail, count, wide, bins, g, shift, base):
    """Count distances in the histogram; `wide` has the type that holds them exactly."""
    for i in range(count):
        wide[i] = tail[i]
        bins[i] = ulp_bin(wide[i], shift, base)
    scatter(bins, g, count)


@bare
def _events(p, q, m, place, placed, start, x, y, d, c, tiny, rtols, atols, wide_atols, easy_rtols, easy_atols, calm,
                 failed, f, at):  # fmt: skip
    """What `dense` found some reason to look at: ratios that may be greater, verdicts that may turn to no."""
    c[5] = tiny
    decode_block(p, q, x, y, m)
    for i in range(m):
        d[i] = size(np.float64(x[i]) - np.float64(y[i]))
    ratios(x, y, d, c, place, placed, start, wide_atols, f, at, m)
    for k in range(rtols.size):
        easy = failed[k] or (f[5] < calm and not any_above(x, y, easy_rtols[k], easy_atols[k], m))
        if not easy and any_not_close(p[:m], q[:m], rtols[k], atols[k]):
            failed[k] = True


@bare
def _pad(p, q, m):
    """Put equal zeros after the first `m` pairs of two buffers; returns their number with these, in whole steps."""
    size = (m + LANES - 1) // LANES * LANES
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
        special = either(special, either(is_special(p[i]), is_special(q[i])))
    return differ, special


@bare
def _maxima(p, q, place, placed, start, sums, counts, u, f, at, top):
    """Find where `dense` met a greater difference or ULP distance than is known."""
    if sums[40] > f[5]:
        f[5] = sums[40]
        i = 0
        while size(np.float64(load(p[i])) - np.float64(load(q[i]))) != f[5]:
            i += 1
        at[0] = start + (place[i] if placed else i)
    if counts[2] > np.int64(top[0]):
        top[0] = u[0] = counts[2]
        i = where_ulp(p, q, u[0])
        at[2] = start + (place[i] if placed else i)


@bare
def _note_first(p, q, m, place, placed, start, firsts):
    """Keep the first mismatches of a block."""
    for i in range(m):
        if ulps(p[i], q[i]) != 0:
            index = start + (place[i] if placed else i)
            if index > firsts[firsts.size - 1]:
                break
            note(firsts, index)


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


@bare
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
            m = compact(p, q, finite_a, finite_b, finite_place, n[4:], failed, firsts, start)
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
        scatter(bins, h, m)
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
