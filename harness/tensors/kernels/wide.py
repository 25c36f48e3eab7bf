"""The kernel for float64, block by block."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
from numba import njit

from harness.tensors.kernels.blocks import (
    ahead,
    any_above,
    any_not_close,
    common,
    compact,
    decode_block,
    look,
    scatter,
    squares,
    sums,
    ulp_block,
    where_ulp,
)
from harness.tensors.kernels.compiler import BLOCK, CACHE
from harness.tensors.kernels.vectors import far


@njit(nogil=True, cache=CACHE)
def _float_block(
    p, q, place, compacted, start, x, y, d, c, bins, tail, u, rtols, atols, wide_atols, easy_rtols, easy_atols, calm,
    failed, h, shift, base, g, ulp_shift, ulp_base, limit, f, at, n, top, firsts,
):  # fmt: skip
    """One block of finite pairs of which some may differ."""
    m = p.size
    total, aa, bb, ab, dd = sums(x, y, d, bins, shift, base, m)
    f[0] += total
    f[1] += aa
    f[2] += bb
    f[3] += ab
    f[4] += dd
    differ = common(x, y, d, c, place, compacted, start, bins, h, wide_atols, f, at, n, firsts, m)
    if differ == 0:
        g[0, 0] += m
        return
    for k in range(rtols.size):
        # A cheaper test first, strict enough to imply torch's whatever it rounds; blocks of close tensors pass.
        easy = failed[k] or (f[5] < calm and not any_above(x, y, easy_rtols[k], easy_atols[k], m))
        if not easy and any_not_close(p, q, rtols[k], atols[k]):
            failed[k] = True
    highest = ulp_block(p, q, u, bins, ulp_shift, ulp_base, m)
    if highest > top[0]:
        top[0] = highest
        i = where_ulp(p, q, highest)
        at[2] = start + (place[i] if compacted else i)
    # The rest of the last step holds bins of another block.
    bins[m : (m + 15) // 16 * 16] = 0
    count = far(bins, (m + 15) // 16 * 16, limit, tail)
    if limit == 0:
        count = m
    g[0, 0] += m - count
    scatter(tail, g, count)


@njit(nogil=True, cache=CACHE)
def float_chunk(
    a, b, x, y, u, rtols, atols, wide_atols, easy_rtols, easy_atols, calm, tiny, failed, h, shift, base,
    g, ulp_shift, ulp_base, limit, f, at, n, top, firsts,
):  # fmt: skip
    """One chunk of floats; see `harness.tensors.compiled._Sink` for what the output arrays mean.

    ULP distances whose bin is below `limit` count as none.
    """
    tail = np.empty(BLOCK + 16, np.uint32)
    d = np.empty(BLOCK)
    c = np.zeros(6, x.dtype)
    c[5] = tiny
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
            n[3] = 1
        compacted = special != 0
        if compacted:
            m = compact(p, q, ca, cb, place, n[4:], failed, firsts, start)
            p = ca[:m]
            q = cb[:m]
        n[0] += m
        decode_block(p, q, x, y, m)
        if apart:
            _float_block(
                p, q, place, compacted, start, x, y, d, c, bins, tail, u, rtols, atols, wide_atols, easy_rtols,
                easy_atols, calm, failed, h, shift, base, g, ulp_shift, ulp_base, limit, f, at, n, top, firsts,
            )  # fmt: skip
            continue
        square = squares(x, m)
        f[1] += square
        f[2] += square
        f[3] += square
        h[0, 0] += m
        g[0, 0] += m
