"""How differences of floats are spread: elements by the octave of |a-b|, and of their distance in ULP."""

from __future__ import annotations

from collections import Counter

import numpy as np

from harness.tensors.dtypes import Array, decode
from harness.tensors.passes import HAS_ULP, each_chunk, ulp_distance
from harness.tensors.tensor import Tensor

_CHUNK = 1 << 20

Octaves = dict[int, int]
"""Exponent k to the number of elements from 2**k to below 2**(k+1)."""


def spread(a: Tensor, b: Tensor) -> tuple[Octaves, Octaves]:
    """Count the elements that differ in value and are finite on both sides, by octave.

    Args:
        a: one side.
        b: the other, of the same shape and dtype.

    Returns:
        Of |a-b|, and of the steps between neighbouring floats from one to the other; both are empty for what is no
        float of two bytes or more.
    """
    apart: Counter[int] = Counter()
    steps: Counter[int] = Counter()
    if a.dtype not in HAS_ULP:
        return {}, {}

    def look(p: Array, q: Array, _start: int) -> None:
        # Mostly few elements differ, and only these are decoded.
        places = np.flatnonzero(p.view(f"<u{p.itemsize}") != q.view(f"<u{q.itemsize}"))
        p, q = p[places], q[places]
        x, y = decode(p, a.dtype), decode(q, a.dtype)
        differ = np.isfinite(x) & np.isfinite(y) & (x != y)
        apart.update(_octaves(np.abs(x[differ] - y[differ])))
        steps.update(_octaves(ulp_distance(p[differ], q[differ], a.dtype).astype(np.float64)))

    for _ in each_chunk(a.flat, b.flat, _CHUNK, look):
        pass
    return dict(sorted(apart.items())), dict(sorted(steps.items()))


def _octaves(values: Array) -> Octaves:
    """How many of some numbers above zero are in each octave; an overflown one is in none."""
    exponents, counts = np.unique(np.frexp(values[np.isfinite(values)])[1] - 1, return_counts=True)
    return dict(zip(exponents.tolist(), counts.tolist(), strict=True))
