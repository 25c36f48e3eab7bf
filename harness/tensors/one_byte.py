"""Tensors of one-byte dtypes: every metric from how often each pair of bytes occurs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from harness.tensors import compiled, passes
from harness.tensors import values as values_module
from harness.tensors.chunks import USUAL, How, each_chunk
from harness.tensors.dtypes import Array
from harness.tensors.passes import KEPT, Partial, Rule, Total, new_total
from harness.tensors.tensor import Tensor


def pair_counts(a: Tensor, b: Tensor, how: How = USUAL) -> Array:
    """How often each pair of bytes occurs in two tensors of a one-byte dtype, shape (256, 256), int64."""
    x, y = a.flat.view(np.uint8), b.flat.view(np.uint8)
    pairs = compiled.pairs if compiled.usable(a.dtype, a.n, how) else passes.pairs
    counts = np.zeros((256, 256), np.int64)
    for found in each_chunk(x, y, how.chunk, lambda p, q, _: pairs(p, q), how.threads):
        counts += found
    return counts


def run(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How) -> Total:
    """Count the 65,536 pairs, and compute every metric from the counts."""
    total = new_total(a.dtype)
    x, y = a.flat.view(np.uint8), b.flat.view(np.uint8)
    counts = pair_counts(a, b, how)
    # Each distinct pair is an element of a small problem, weighted by its count.
    left, right = (side.astype(np.uint8) for side in np.nonzero(counts))
    weights = counts[left, right]
    values = values_module.byte_values(a.dtype)
    u, v = values[left], values[right]
    finite = np.isfinite(u) & np.isfinite(v)
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(u - v), 0.0)
    reference = np.where(finite, np.abs(v), 0.0)
    unequal = u != v
    part = Partial(
        finite=int(weights[finite].sum()),
        differ=int(weights[unequal & finite].sum()),
        against_zero=int(weights[(difference > 0) & (reference == 0)].sum()),
        bits_apart=bool(np.any(left != right)),
        special=[int(weights[mask].sum()) for side in ("nan", "up", "down") for mask in _classes(side, u, v)],
        special_differ=int(weights[unequal & ~finite].sum()),
        failed=[values_module.judged(a.dtype) and bool(unequal.any()) for _ in rules],
    )
    apart = ~finite & unequal & ~(np.isnan(u) & np.isnan(v))
    part.special_apart = int(weights[apart].sum())
    p, q, d, w = u[finite], v[finite], difference[finite], weights[finite]
    part.sums = (float(d @ w), float((p * p) @ w), float((q * q) @ w), float((p * q) @ w), float((d * d) @ w))
    np.add.at(total.histogram, total.bins.of(d), w)

    def find(left: Array, right: Array, count: int) -> list[int]:
        """Flat indices of the first `count` places that hold one of these pairs of bytes."""
        wanted = np.zeros(65536, np.bool_)
        wanted[(left.astype(np.uint16) << 8) | right] = True
        found: list[int] = []
        for hits in each_chunk(x, y, how.numpy_chunk, lambda p, q, start: start + _hits(wanted, p, q)):
            found += [int(hit) for hit in hits[: count - len(found)]]
            if len(found) >= count:
                break
        return found

    def place(scores: Array) -> tuple[float, int]:
        best = float(scores.max()) if scores.size else 0.0
        if best <= 0:
            return 0.0, -1
        return best, find(left[scores == best], right[scores == best], 1)[0]

    part.max_abs = place(difference)
    relative = np.divide(difference, reference, out=np.zeros_like(difference), where=reference > 0)
    part.max_rel = place(relative)
    for atol, _ in rules:
        needed = np.divide(difference - atol, reference, out=np.zeros_like(difference), where=reference > 0)
        needed[(reference == 0) & (difference > atol)] = math.inf
        part.ratios.append(place(needed))
    if unequal.any():
        part.firsts = find(left[unequal], right[unequal], KEPT)
    total.parts.append(part)
    return total


def _classes(which: str, u: Array, v: Array) -> Iterable[Array]:
    for side in (u, v):
        yield np.isnan(side) if which == "nan" else side == (math.inf if which == "up" else -math.inf)


def _hits(wanted: Array, p: Array, q: Array) -> Array:
    """Where a pair of bytes is one of those that are wanted."""
    return np.flatnonzero(wanted[(p.astype(np.uint16) << 8) | q])
