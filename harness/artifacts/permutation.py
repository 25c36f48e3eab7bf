"""Centroids in another order: which row of B is which of A, where k-means numbered the same clusters differently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.tensors.dtypes import DTYPES, Array, decode
from harness.tensors.tensor import Tensor

_ROWS = 8192
_MATCH_LIMIT = 32_768  # centroids that are matched by nearest neighbour, a quadratic search
_PROBES = 64  # of which so many are tried first
_SCORES = 1 << 23  # dot products at a time
_SIMILAR = 0.99


@dataclass(frozen=True)
class Permutation:
    """How B's centroids are A's in another order: row `j` of B is row `to_a[j]` of A.

    `exact` says that every matched row is bit-identical; otherwise the rows are nearest neighbours, one to one.
    `unmatched` rows of B have no counterpart, and are put in the places that are left.
    """

    to_a: Array
    exact: bool
    unmatched: int = 0

    @property
    def moved(self) -> int:
        """How many rows are not where they were."""
        return int(np.count_nonzero(self.to_a != np.arange(self.to_a.size)))


def find_permutation(a: Tensor, b: Tensor) -> Permutation | None:
    """Match the rows of two centroid tensors of equal shape and dtype; None when they are in the same order.

    Identical rows are matched first; the rest go to their nearest neighbour by cosine, if that is above 0.99 and nobody
    else's. Where more rows find no counterpart than are found at another place, there is no permutation to speak of.
    """
    if len(a.shape) != 2 or a.shape != b.shape or a.dtype != b.dtype or a.n == 0 or DTYPES[a.dtype].kind != "float":
        return None
    rows = a.shape[0]
    left, right = (side.flat.view(np.uint8).reshape(rows, -1) for side in (a, b))
    moved = np.flatnonzero((left != right).any(axis=1))
    if moved.size == 0:
        return None
    to_a = np.arange(rows)
    waiting: dict[bytes, list[int]] = {}
    for row in moved:
        waiting.setdefault(left[row].tobytes(), []).append(int(row))
    rest = []
    for row in moved:
        same = waiting.get(right[row].tobytes())
        if same:
            to_a[row] = same.pop(0)
        else:
            rest.append(int(row))
    unmatched = 0
    if rest:
        to_a[rest] = _nearest(a, b, sorted(row for same in waiting.values() for row in same), rest)
        unmatched = int(np.count_nonzero(to_a < 0))
    elsewhere = int(np.count_nonzero((to_a >= 0) & (to_a != np.arange(rows))))
    if elsewhere <= unmatched:
        return None
    return Permutation(_filled(to_a), not rest, unmatched)


def _filled(to_a: Array) -> Array:
    """The order with its gaps, -1, filled by the rows that nobody took, each in its own place where that is free."""
    free = np.ones(to_a.size, np.bool_)
    free[to_a[to_a >= 0]] = False
    filled = np.where((to_a < 0) & free, np.arange(to_a.size), to_a)
    free[filled[filled >= 0]] = False
    filled[filled < 0] = np.flatnonzero(free)
    return filled


def _nearest(a: Tensor, b: Tensor, open_a: list[int], rest: list[int]) -> Array:
    """For each row of B in `rest`, the nearest of A's rows `open_a`; -1 where there is none, or hardly any has one."""
    if open_a == rest and all(_alike(a, b, rest[start : start + _ROWS]) for start in range(0, len(rest), _ROWS)):
        return np.array(rest)
    matched = np.full(len(rest), -1)
    if len(rest) > _MATCH_LIMIT:
        return matched
    # Half the width is twice as fast, and closer than the limit of what is similar is exact.
    left = unit(numbers_of(a, open_a)).astype(np.float32)

    def similar(rows: list[int]) -> tuple[Array, Array]:
        scores = unit(numbers_of(b, rows)).astype(np.float32) @ left.T
        best = scores.argmax(axis=1)
        return best, scores[np.arange(best.size), best]

    probes = rest[:: -(-len(rest) // _PROBES)]
    if np.count_nonzero(similar(probes)[1] > _SIMILAR) * 4 < len(probes):
        return matched
    step = max(_SCORES // len(rest), 1)
    found = [similar(rest[start : start + step]) for start in range(0, len(rest), step)]
    best, score = (np.concatenate(side) for side in zip(*found, strict=True))
    # Of several that are nearest to one row, the most similar has it: the last that is written.
    order = np.argsort(score, kind="stable")
    taken = np.full(len(rest), -1)
    taken[best[order]] = order
    winners = taken[taken >= 0]
    winners = winners[score[winners] > _SIMILAR]
    matched[winners] = np.array(open_a)[best[winners]]
    return matched


def numbers_of(tensor: Tensor, rows: Array | list[int]) -> Array:
    """Some rows of a tensor as float64; all of them may be too many to hold."""
    picked = tensor.data.take(rows, axis=0)
    return decode(picked.reshape(-1), tensor.dtype).reshape(picked.shape)


def _alike(a: Tensor, b: Tensor, rows: list[int]) -> bool:
    """Whether each of these rows points the same way on both sides."""
    return bool(((unit(numbers_of(a, rows)) * unit(numbers_of(b, rows))).sum(axis=1) > _SIMILAR).all())


def unit(rows: Array) -> Array:
    """Rows as long as one, float64; those that have no direction, or are not finite, as zeros."""
    with np.errstate(over="ignore"):  # a row too long for float64 is like no other
        norms = lengths(rows)
        if not np.isfinite(norms).all():
            rows = np.nan_to_num(rows, posinf=0.0, neginf=0.0)
            norms = lengths(rows)
    found: Array = rows / np.where(norms > 0, norms, np.inf)[:, None]
    return found


def lengths(rows: Array) -> Array:
    """How long each row is: the bits of NumPy's `norm`, which goes once more through real numbers to conjugate them."""
    found: Array = np.sqrt(np.square(rows).sum(axis=1))
    return found
