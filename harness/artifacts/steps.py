"""Artifacts whose rows are steps of a training, side by side: which parts of which step are not the same bits."""

from __future__ import annotations

import numpy as np

from harness.tensors.dtypes import Array
from harness.tensors.tensor import Tensor


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
    sides = [_bits(one, steps) for one in (left, right)]
    different: Array = sides[0] != sides[1]
    return different.reshape(steps, -1, left.shape[-1]).any(axis=-1) if digests else different


def _bits(tensor: Tensor, steps: int) -> Array:
    """The bits of each element as an integer, (steps, elements)."""
    rows = tensor.data[:steps]
    width = int(np.prod(tensor.shape[1:], dtype=np.int64))
    bits: Array = np.ascontiguousarray(rows).view(f"u{rows.dtype.itemsize}").reshape(steps, width)
    return bits
