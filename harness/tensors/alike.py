"""Tensors with the same bytes: nothing about them needs more than to see that they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.passes import How, Partial, Rule, Total, each_chunk, new_total
from harness.tensors.tensor import Tensor

_STRIP = 1 << 18  # bytes that are compared at a time: both sides and the answer fit the second-level cache
_INFINITY = {"float16": ("<u2", 0x7C00), "bfloat16": ("<u2", 0x7F80), "float32": ("<u4", 0x7F800000)}
"""Of the floats that this knows: an integer as wide, and the bits of infinity, the smallest magnitude not finite."""


def run(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How) -> Total | None:
    """What going through both would find where all bytes are the same and all numbers finite; else None.

    NaN is not equal to itself, so that where there is one its place must be told; of rare dtypes nobody asks.
    """
    kind = DTYPES[a.dtype]
    if a.n == 0 or not (kind.kind in ("int", "bool") or a.dtype in _INFINITY) or not same_bytes(a, b, how):
        return None
    if a.dtype in _INFINITY and not _finite(a, how):
        return None
    total = new_total(a.dtype)
    total.histogram[0] = total.ulps[0] = a.n
    # Of the sums, only whether there is any number but zero: the angle between a vector and itself is none.
    square = float(_any_number(a))
    total.parts.append(
        Partial(
            finite=a.n,
            sums=(0.0, square, square, square, 0.0),
            ratios=[(0.0, -1) for _ in rules],
            failed=[False for _ in rules],
        )
    )
    return total


def same_bytes(a: Tensor, b: Tensor, how: How) -> bool:
    """Whether two tensors of one dtype and shape have the same bytes; ends with the first that are not."""

    def look(p: Array, q: Array, _start: int) -> bool:
        return all(np.array_equal(p[k : k + _STRIP], q[k : k + _STRIP]) for k in range(0, p.size, _STRIP))

    return all(each_chunk(a.flat.view(np.uint8), b.flat.view(np.uint8), how.chunk, look, how.threads))


def _finite(a: Tensor, how: How) -> bool:
    """Whether no number is NaN or infinite."""
    width, infinity = _INFINITY[a.dtype]
    bits = a.flat.view(width)
    looked = each_chunk(bits, bits, how.numpy_chunk, lambda p, _q, _start: bool(((p & infinity) < infinity).all()))
    return all(looked)


def _any_number(a: Tensor) -> bool:
    """Whether any number is not zero, of either sign."""
    for start in range(0, a.n, _STRIP):
        strip = a.flat[start : start + _STRIP]
        if ((strip.view(_INFINITY[a.dtype][0]) << 1) if a.dtype in _INFINITY else strip).any():
            return True
    return False
