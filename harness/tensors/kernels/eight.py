"""The kernel for integers of 8 bits: their sums are whole numbers, and all but the edges of percentiles is one loop."""

from __future__ import annotations

import numpy as np

from harness.tensors.kernels import blocks
from harness.tensors.kernels import intrinsics as op
from harness.tensors.kernels import vectors as vec
from harness.tensors.kernels.compiler import BLOCK, aligned, bare
from harness.tensors.kernels.records import ByteBuffers, Places


def buffers(dtype: str) -> ByteBuffers:
    """What `byte_chunk` works in, for one thread; `dtype` is NumPy's of the elements."""
    return ByteBuffers(
        differences=aligned(BLOCK, np.uint8), bins=aligned(BLOCK, np.uint32), place=np.empty(1, np.int64),
        sums=np.zeros(vec.SUMS, np.int64), counts=np.zeros(vec.BEYOND + 1, np.int64),
        padded_a=aligned(BLOCK, dtype), padded_b=aligned(BLOCK, dtype),
    )  # fmt: skip


@bare
def byte_chunk(a, b, state):
    """One chunk of uint8 or int8."""
    block, terms, found, tally, work = state.block, state.terms, state.found, state.differences, state.buffers
    differences, sums, counts = work.differences, work.sums, work.counts
    sums[:] = 0
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
        vec.whole(p, q, size, np.int64(min(found.max_rel, 255.0) * 256.0), differences, sums, counts)
        if counts[vec.DIFFER] == 0:
            tally.table[0, 0] += m
            continue
        found.bits_apart = 1
        found.differ += counts[vec.DIFFER]
        found.against_zero += counts[vec.AGAINST_ZERO]
        early = found.firsts[found.firsts.size - 1] > start
        if early or counts[vec.BEYOND] or counts[vec.FARTHEST] > found.max_abs:
            y, d = block.y, block.d
            for i in range(m):
                y[i] = np.float64(q[i])
                d[i] = op.size(np.float64(p[i]) - y[i])
            places = Places(work.place, False, start)
            blocks.raise_greatest(d, op.bits(np.float64(counts[vec.FARTHEST])), places, found)
            blocks.raise_ratio(d, y, places, found, m)
            blocks.note_first(d, places, found, m)
        if tally.edges.size:
            vec.at_least(differences, size, tally.edges, tally.above)
            continue
        for i in range(m):
            work.bins[i] = op.bin_of(np.float64(differences[i] ^ np.uint8(128)), terms.shift, terms.base)
        blocks.scatter(work.bins, tally.table, m)
    found.sum_abs += sums[vec.SUM_ABS]
    found.sum_aa += sums[vec.SUM_AA]
    found.sum_bb += sums[vec.SUM_BB]
    found.sum_ab += sums[vec.SUM_AB]
    found.sum_dd += sums[vec.SUM_AA] + sums[vec.SUM_BB] - 2 * sums[vec.SUM_AB]
