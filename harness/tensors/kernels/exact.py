"""Kernels for integers, and for pairs of bytes."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels.blocks import ahead, common, gaps, squares, sums
from harness.tensors.kernels.compiler import BLOCK, CACHE
from harness.tensors.kernels.intrinsics import bits_apart, either
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
def int_chunk(a, b, atols, h, shift, base, f, at, n, firsts):
    """One chunk of integers of 16 to 64 bits, the same outputs as `float_chunk`'s."""
    x = np.empty(BLOCK)
    y = np.empty(BLOCK)
    d = np.empty(BLOCK)
    c = np.zeros(6)
    bins = np.empty(BLOCK, np.uint32)
    place = np.empty(1, np.int64)
    for start in range(0, a.size, BLOCK):
        p = a[start : start + BLOCK]
        q = b[start : start + BLOCK]
        m = p.size
        ahead(a, b, start, m)
        n[0] += m
        _convert(p, x)
        if _same(p, q):
            square = squares(x, m)
            f[1] += square
            f[2] += square
            f[3] += square
            h[0, 0] += m
            continue
        n[3] = 1
        _convert(q, y)
        total, aa, bb, ab, dd = sums(x, y, d, bins, shift, base, m)
        if a.itemsize == 8:
            total, dd = gaps(p, q, d, bins, shift, base, m)
            # The numbers as float64 may be equal where the integers are not: let every block pass the screen.
            c[5] = 2.0**64
        f[0] += total
        f[1] += aa
        f[2] += bb
        f[3] += ab
        f[4] += dd
        common(x, y, d, c, place, False, start, bins, h, atols, f, at, n, firsts, m)


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
