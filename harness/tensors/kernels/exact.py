"""Kernels for integers, and for pairs of bytes."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take arrays, records and named tuples, which only numba gives types.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels.blocks import add_squares, ahead, common, gaps, squares, sums
from harness.tensors.kernels.compiler import BLOCK, CACHE
from harness.tensors.kernels.intrinsics import bits_apart, either
from harness.tensors.kernels.records import Places
from harness.tensors.kernels.vectors import AHEAD, fetch


@njit(nogil=True, cache=CACHE)
def _same(a, b):
    apart = np.int32(0)
    for i in range(a.size):
        apart = either(apart, bits_apart(a[i], b[i]))
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
        ahead(a, b, start, m)
        found.finite += m
        _convert(p, x)
        if _same(p, q):
            add_squares(found, squares(x, m))
            state.abs_table[0, 0] += m
            continue
        found.bits_apart = 1
        _convert(q, y)
        total, aa, bb, ab, dd = sums(x, y, d, bins, terms.shift, terms.base, m)
        if a.itemsize == 8:
            total, dd = gaps(p, q, d, bins, terms.shift, terms.base, m)
        found.sum_abs += total
        found.sum_aa += aa
        found.sum_bb += bb
        found.sum_ab += ab
        found.sum_dd += dd
        common(block, Places(place, False, start), bins, state.abs_table, state.rules, found, m)


@njit(nogil=True, cache=CACHE)
def pair_chunk(a, b, h):
    """Count the 65,536 possible pairs of two uint8 arrays: all their metrics follow from these counts."""
    four = a.size // 4 * 4
    for i in range(0, four, 4):
        if i & 63 == 0:
            fetch(a, i + AHEAD)
            fetch(b, i + AHEAD)
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
        h[1, (np.uint64(a[i + 1]) << np.uint64(8)) | np.uint64(b[i + 1])] += 1
        h[2, (np.uint64(a[i + 2]) << np.uint64(8)) | np.uint64(b[i + 2])] += 1
        h[3, (np.uint64(a[i + 3]) << np.uint64(8)) | np.uint64(b[i + 3])] += 1
    for i in range(four, a.size):
        h[0, (np.uint64(a[i]) << np.uint64(8)) | np.uint64(b[i])] += 1
