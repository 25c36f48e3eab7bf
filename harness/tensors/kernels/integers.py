"""The kernel for integers of 8 to 32 bits: a loop in vector code, and a closer look where something may be greater."""

from __future__ import annotations

import numpy as np

from harness.tensors.kernels import blocks
from harness.tensors.kernels import intrinsics as op
from harness.tensors.kernels import vectors as vec
from harness.tensors.kernels.compiler import BLOCK, aligned, bare
from harness.tensors.kernels.emit import EIGHT
from harness.tensors.kernels.records import IntBuffers, Places
from harness.tensors.kernels.vector_integers import whole


def buffers(dtype: str) -> IntBuffers:
    """What `int_chunk` works in, for one thread; `dtype` is NumPy's of the elements."""
    return IntBuffers(
        differences=aligned(BLOCK, np.uint8 if np.dtype(dtype).itemsize == 1 else np.uint16),
        bins=aligned(BLOCK, np.uint32), place=np.empty(1, np.int64),
        sums=np.zeros(vec.GREATEST), counts=np.zeros(vec.BEYOND + 1, np.int64),
        padded_a=aligned(BLOCK, dtype), padded_b=aligned(BLOCK, dtype),
    )  # fmt: skip


@bare
def int_chunk(a, b, state):
    """One chunk of integers of 8, 16 or 32 bits."""
    block, terms, found, tally, work = state.block, state.terms, state.found, state.differences, state.buffers
    y, d, sums, counts = block.y, block.d, work.sums, work.counts
    sums[:] = 0.0
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        size = m
        if m % vec.LANES:
            size = (m + vec.LANES - 1) // vec.LANES * vec.LANES
            for i in range(size):
                work.padded_a[i] = p[i] if i < m else 0
                work.padded_b[i] = q[i] if i < m else 0
            p, q = work.padded_a, work.padded_b
        found.finite += m
        whole(p, q, size, found.max_rel, terms.base, work.differences, sums, counts)
        if counts[vec.DIFFER] == 0:
            tally.table[0, 0] += m
            continue
        found.bits_apart = 1
        found.differ += counts[vec.DIFFER]
        found.against_zero += counts[vec.AGAINST_ZERO]
        early = found.firsts[found.firsts.size - 1] > start
        closer = early or counts[vec.BEYOND] or counts[vec.FARTHEST] > found.max_abs
        if closer or tally.edges.size == 0:
            for i in range(m):
                y[i] = np.float64(q[i])
                d[i] = op.size(np.float64(p[i]) - y[i])
        if closer:
            places = Places(work.place, False, start)
            blocks.raise_greatest(d, op.bits(np.float64(counts[vec.FARTHEST])), places, found)
            blocks.raise_ratio(d, y, places, found, m)
            blocks.note_first(d, places, found, m)
        if tally.edges.size:
            vec.at_least(work.differences, size, tally.edges, tally.above)
            continue
        for i in range(m):
            work.bins[i] = op.bin_of(d[i], terms.shift, terms.base)
        blocks.scatter(work.bins, tally.table, m)
    for k in range(EIGHT):
        found.sum_abs += sums[vec.ABS + k]
        found.sum_aa += sums[vec.AA + k]
        found.sum_bb += sums[vec.BB + k]
        found.sum_ab += sums[vec.AB + k]
        found.sum_dd += sums[vec.DD + k]
