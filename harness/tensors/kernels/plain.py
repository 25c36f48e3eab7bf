"""The kernels whose loops LLVM turns into vector code by itself: float64, integers, and pairs of bytes."""

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels import blocks
from harness.tensors.kernels import intrinsics as op
from harness.tensors.kernels import vectors as vec
from harness.tensors.kernels.compiler import BLOCK, CACHE, bare
from harness.tensors.kernels.records import Places


@bare
def _add(found, total, aa, bb, ab, dd):
    """Add what `sums` found in a block."""
    found.sum_abs += total
    found.sum_aa += aa
    found.sum_bb += bb
    found.sum_ab += ab
    found.sum_dd += dd


@njit(nogil=True, cache=CACHE)
def _float_block(p, q, places, bins, tail, state):
    """One block of finite pairs of which some may differ."""
    block, terms, found, ulp_table = state.block, state.terms, state.found, state.ulp_table
    m = p.size
    total, aa, bb, ab, dd = blocks.sums(block.x, block.y, block.d, bins, terms.shift, terms.base, m)
    _add(found, total, aa, bb, ab, dd)
    differ = blocks.common(block, places, bins, state.abs_table, state.rules, found, m)
    if differ == 0:
        ulp_table[0, 0] += m
        return
    blocks.judge(p, q, block, state.rules, terms, found, m)
    highest = blocks.ulp_block(p, q, bins, terms.ulp_shift, terms.ulp_base, m)
    if highest > found.max_ulp:
        found.max_ulp = highest
        found.max_ulp_at = blocks.position(places, blocks.where_ulp(p, q, highest))
    # The rest of the last step holds bins of another block.
    bins[m : (m + 15) // 16 * 16] = 0
    count = vec.far(bins, (m + 15) // 16 * 16, terms.limit, tail)
    if terms.limit == 0:
        count = m
    ulp_table[0, 0] += m - count
    blocks.scatter(tail, ulp_table, count)


@njit(nogil=True, cache=CACHE)
def float_chunk(a, b, state):
    """One chunk of float64."""
    found = state.found
    tail = np.empty(BLOCK + 16, np.uint32)
    bins = np.empty(BLOCK, np.uint32)  # unsigned, or numba checks each index for being negative
    place = np.empty(BLOCK, np.int64)
    ca = np.empty(BLOCK, a.dtype)
    cb = np.empty(BLOCK, b.dtype)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        blocks.ahead(a, b, start, m)
        apart, special = blocks.look(p, q)
        if apart:
            found.bits_apart = 1
        compacted = special != 0
        if compacted:
            m = blocks.compact(p, q, ca, cb, place, start, state.rules, found)
            p = ca[:m]
            q = cb[:m]
        found.finite += m
        blocks.decode_block(p, q, state.block.x, state.block.y, m)
        if apart:
            _float_block(p, q, Places(place, compacted, start), bins, tail, state)
            continue
        blocks.add_squares(found, blocks.squares(state.block.x, m))
        state.abs_table[0, 0] += m
        state.ulp_table[0, 0] += m


@njit(nogil=True, cache=CACHE)
def _same(a, b):
    apart = np.int32(0)
    for i in range(a.size):
        apart = op.either(apart, op.bits_apart(a[i], b[i]))
    return apart == 0


@njit(nogil=True, cache=CACHE)
def _convert(a, x):
    for i in range(a.size):
        x[i] = a[i]


@njit(nogil=True, cache=CACHE)
def int_chunk(a, b, state):
    """One chunk of integers of 16 to 64 bits."""
    block, terms, found = state.block, state.terms, state.found
    x, y, d = block.x, block.y, block.d
    bins = np.empty(BLOCK, np.uint32)
    place = np.empty(1, np.int64)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        blocks.ahead(a, b, start, m)
        found.finite += m
        _convert(p, x)
        if _same(p, q):
            blocks.add_squares(found, blocks.squares(x, m))
            state.abs_table[0, 0] += m
            continue
        found.bits_apart = 1
        _convert(q, y)
        total, aa, bb, ab, dd = blocks.sums(x, y, d, bins, terms.shift, terms.base, m)
        if a.itemsize == 8:
            total, dd = blocks.gaps(p, q, d, bins, terms.shift, terms.base, m)
        _add(found, total, aa, bb, ab, dd)
        blocks.common(block, Places(place, False, start), bins, state.abs_table, state.rules, found, m)


@njit(nogil=True, cache=CACHE)
def pair_chunk(a, b, h):
    """Count the 65,536 possible pairs of two uint8 arrays: all their metrics follow from these counts."""
    four = a.size // 4 * 4
    for i in range(0, four, 4):
        if i & 63 == 0:
            vec.fetch(a, i + vec.AHEAD)
            vec.fetch(b, i + vec.AHEAD)
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
        h[1, (np.uint64(a[i + 1]) << np.uint64(8)) | np.uint64(b[i + 1])] += 1
        h[2, (np.uint64(a[i + 2]) << np.uint64(8)) | np.uint64(b[i + 2])] += 1
        h[3, (np.uint64(a[i + 3]) << np.uint64(8)) | np.uint64(b[i + 3])] += 1
    for i in range(four, a.size):
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
