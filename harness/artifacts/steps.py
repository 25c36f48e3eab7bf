"""Two trainings' artifacts side by side, step by step and parameter by parameter: what differs, and how far apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.tensors.dtypes import Array
from harness.tensors.tensor import Tensor

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Apart:
    """How far apart some numbers of A and B are.

    Attributes:
        n: how many there are.
        n_mismatch: how many have other bits; a zero of the other sign is one of them.
        distance: |A - B| / |B|, Euclidean, in float64; infinite where only B is all zeros, NaN where a number is none.
    """

    n: int
    n_mismatch: int
    distance: float


def differing(left: Tensor, right: Tensor, *, digests: bool) -> Array:
    """Say of each step that both sides have, and of each part of it, whether its bits differ.

    Args:
        left: A's, a row a step.
        right: B's.
        digests: whether the last axis holds one digest, which is a part then; otherwise each element is one.

    Returns:
        Booleans, (steps, parts). Where a step is of another dtype or shape on the two sides it has one part, which
        differs. +0 is not -0 here, and a NaN with the same bits is the same.
    """
    steps = min(left.shape[0], right.shape[0])
    if left.dtype != right.dtype or left.shape[1:] != right.shape[1:]:
        return np.ones((steps, 1), np.bool_)
    different = np.asarray(bits(left.data[:steps]) != bits(right.data[:steps]))
    if digests:
        different = np.asarray(different.any(axis=-1))
    return different.reshape(steps, math.prod(different.shape[1:]))


def begins_before(own: Mapping[str, int], other: Mapping[str, int], order: Sequence[str]) -> bool:
    """Whether one difference begins before another: in an earlier step, or in the same one with an earlier artifact.

    Args:
        own: artifact to the first step in which it differs, only of artifacts that both have recorded.
        other: the same of another difference, such as that of a repeat; empty where nothing differs.
        order: of artifacts in a step; has all of them.

    Returns:
        False where `own` is empty.
    """
    first, known = (min(((step, order.index(name)) for name, step in of.items()), default=None) for of in (own, other))
    return first is not None and (known is None or first < known)


def apart(left: Array, right: Array) -> Apart:
    """How far apart two flat arrays of floats of one dtype are."""
    mismatch, between, size = 0, 0.0, 0.0
    for start in range(0, left.size, _BLOCK):
        one, other = (side[start : start + _BLOCK] for side in (left, right))
        mismatch += int(np.count_nonzero(bits(one) != bits(other)))
        with np.errstate(invalid="ignore", over="ignore"):
            difference, reference = one.astype(np.float64) - other, other.astype(np.float64)
            between, size = between + float(difference @ difference), size + float(reference @ reference)
    distance = math.sqrt(between / size) if size else 0.0 if between == 0 else math.inf
    return Apart(left.size, mismatch, distance)


def nearest_to_loss(names: Sequence[str]) -> list[int]:
    """Places of parameters in the order in which a backward pass comes to them, as far as their own order tells it.

    A model lists its parameters as it uses them, but for the projection of colbert-ai's, which is listed first and used
    last.
    """
    return sorted(range(len(names)), key=lambda place: (not _is_projection(names[place]), -place))


def _is_projection(name: str) -> bool:
    return name.split(".")[-2:] == ["linear", "weight"] and name.count(".") <= 2


def bits(numbers: Array) -> Array:
    """The bits of numbers as integers: a zero has a sign, and a NaN is itself."""
    found: Array = np.ascontiguousarray(numbers).view(f"u{numbers.dtype.itemsize}")
    return found
