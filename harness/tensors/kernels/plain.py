"""The kernels whose loops LLVM turns into vector code by itself: numbers of 64 bits, and pairs of bytes."""

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels import blocks
from harness.tensors.kernels import intrinsics as op
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
def _float_block(p, q, places, bins, state):
    """One block of finite pairs of which some may differ."""
    block, terms, found = state.block, state.terms, state.found
    m = p.size
    total, aa, bb, ab, dd = blocks.sums(block.x, block.y, block.d, bins, terms.shift, terms.base, m)
    _add(found, total, aa, bb, ab, dd)
    differ = blocks.common(block, places, bins, state.differences, state.rules, found, m)
    if differ == 0:
        state.distances.table[0, 0] += m
        return
    blocks.judge(p, q, block, state.rules, terms, found, m)
    highest = blocks.ulp_block(p, q, bins, terms.ulp_shift, terms.ulp_base, m)
    if highest > found.max_ulp:
        found.max_ulp = highest
        found.max_ulp_at = blocks.position(places, blocks.where_ulp(p, q, highest))
    blocks.count_bins(bins, state.distances, m, m)


@njit(nogil=True, cache=CACHE)
def float_chunk(a, b, state):
    """One chunk of float64."""
    found = state.found
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
            _float_block(p, q, Places(place, compacted, start), bins, state)
            continue
        blocks.add_squares(found, blocks.squares(state.block.x, m))
        state.differences.table[0, 0] += m
        state.distances.table[0, 0] += m


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
def long_chunk(a, b, state):
    """One chunk of integers of 64 bits."""
    block, terms, found = state.block, state.terms, state.found
    x, y, d = block.x, block.y, block.d
    bins = np.empty(BLOCK, np.uint16)
    place = np.empty(1, np.int64)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        blocks.ahead(a, b, start, m)
        found.finite += m
        if _same(p, q):
            _convert(p, x)
            blocks.add_squares(found, blocks.squares(x, m))
            state.differences.table[0, 0] += m
            continue
        found.bits_apart = 1
        _convert(p, x)
        _convert(q, y)
        _, aa, bb, ab, _ = blocks.sums(x, y, d, bins, terms.shift, terms.base, m)
        total, dd = blocks.gaps(p, q, d, bins, terms.shift, terms.base, m)
        _add(found, total, aa, bb, ab, dd)
        blocks.common(block, Places(place, False, start), bins, state.differences, state.rules, found, m)


@bare
def pair_chunk(a, b, h):
    """Count the 65,536 possible pairs of two uint8 arrays, given as words of eight: all metrics follow from that.

    One table: a second one, for equal neighbours not to wait for one another, would not fit the second-level cache.
    """
    low = np.uint64(0x00FF00FF00FF00FF)
    for i in range(a.size):
        p, q = a[i], b[i]
        # Four pairs side by side, of every second byte, and the other four.
        even = ((p & low) << np.uint64(8)) | (q & low)
        odd = (p & ~low) | ((q >> np.uint64(8)) & low)
        for k in range(0, 64, 16):
            h[(even >> np.uint64(k)) & np.uint64(0xFFFF)] += 1
            h[(odd >> np.uint64(k)) & np.uint64(0xFFFF)] += 1
