"""Tensors of one-byte dtypes: every metric from how often each pair of bytes occurs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.tensors import compiled, passes
from harness.tensors.dtypes import Array, byte_values, judged
from harness.tensors.passes import KEPT, USUAL, How, Rule, Total, each_chunk, new_total, reduced
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
    values = byte_values(a.dtype)
    u, v = values[left], values[right]

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

    def greatest(scores: Array) -> tuple[float, int]:
        best = float(scores.max()) if scores.size else 0.0
        return (best, find(left[scores == best], right[scores == best], 1)[0]) if best > 0 else (0.0, -1)

    with np.errstate(invalid="ignore"):
        part, unequal, difference = reduced(u, v, np.abs(u - v), rules, greatest, weights)
    finite = np.isfinite(u) & np.isfinite(v)
    np.add.at(total.histogram, total.bins.of(difference[finite]), weights[finite])
    part.bits_apart = bool(np.any(left != right))
    part.failed = [judged(a.dtype) and bool(unequal.any()) for _ in rules]
    part.firsts = find(left[unequal], right[unequal], KEPT) if unequal.any() else []
    total.parts.append(part)
    return total


def _hits(wanted: Array, p: Array, q: Array) -> Array:
    """Where a pair of bytes is one of those that are wanted."""
    return np.flatnonzero(wanted[(p.astype(np.uint16) << 8) | q])
