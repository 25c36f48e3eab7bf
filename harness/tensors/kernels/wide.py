"""The kernel for float64, block by block."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take arrays, records and named tuples, which only numba gives types.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels.blocks import (
    add_squares,
    ahead,
    common,
    compact,
    decode_block,
    judge,
    look,
    position,
    scatter,
    squares,
    sums,
    ulp_block,
    where_ulp,
)
from harness.tensors.kernels.compiler import BLOCK, CACHE
from harness.tensors.kernels.records import Places
from harness.tensors.kernels.vectors import far


@njit(nogil=True, cache=CACHE)
def _float_block(p, q, places, bins, tail, state):
    """One block of finite pairs of which some may differ."""
    block, terms, found, ulp_table = state.block, state.terms, state.found, state.ulp_table
    m = p.size
    total, aa, bb, ab, dd = sums(block.x, block.y, block.d, bins, terms.shift, terms.base, m)
    found.sum_abs += total
    found.sum_aa += aa
    found.sum_bb += bb
    found.sum_ab += ab
    found.sum_dd += dd
    differ = common(block, places, bins, state.abs_table, state.rules, found, m)
    if differ == 0:
        ulp_table[0, 0] += m
        return
    judge(p, q, block, state.rules, terms, found, m)
    highest = ulp_block(p, q, bins, terms.ulp_shift, terms.ulp_base, m)
    if highest > found.max_ulp:
        found.max_ulp = highest
        found.max_ulp_at = position(places, where_ulp(p, q, highest))
    # The rest of the last step holds bins of another block.
    bins[m : (m + 15) // 16 * 16] = 0
    count = far(bins, (m + 15) // 16 * 16, terms.limit, tail)
    if terms.limit == 0:
        count = m
    ulp_table[0, 0] += m - count
    scatter(tail, ulp_table, count)


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
        ahead(a, b, start, m)
        apart, special = look(p, q)
        if apart:
            found.bits_apart = 1
        compacted = special != 0
        if compacted:
            m = compact(p, q, ca, cb, place, start, state.rules, found)
            p = ca[:m]
            q = cb[:m]
        found.finite += m
        decode_block(p, q, state.block.x, state.block.y, m)
        if apart:
            _float_block(p, q, Places(place, compacted, start), bins, tail, state)
            continue
        add_squares(found, squares(state.block.x, m))
        state.abs_table[0, 0] += m
        state.ulp_table[0, 0] += m
