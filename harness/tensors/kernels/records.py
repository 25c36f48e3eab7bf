"""What a kernel and its caller hand each other, every slot by name.

numba passes a record as one pointer, and the parts of a named tuple one by one: records hold numbers, named tuples hold
the arrays that belong together.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from harness.tensors.passes import KEPT

FOUND = np.dtype(
    [(name, np.float64) for name in ("sum_abs", "sum_aa", "sum_bb", "sum_ab", "sum_dd", "max_abs", "max_rel")]
    + [("max_ulp", np.uint64)]
    + [(name, np.int64) for name in ("max_abs_at", "max_rel_at", "max_ulp_at")]
    + [(name, np.int64) for name in ("finite", "differ", "against_zero", "bits_apart")]
    + [(name, np.int64) for name in ("nan_a", "nan_b", "up_a", "up_b", "down_a", "down_b")]
    + [("special_apart", np.int64), ("special_differ", np.int64), ("firsts", np.int64, (KEPT,))]
)
"""What one chunk contributes, as `harness.tensors.passes.Partial` has it; places count from the start of the chunk."""


def rule_type(real: type) -> np.dtype[Any]:
    """A tolerance, and what became of it; `real` is the float that the dtype is computed with.

    `atol` is the profile's, `torch_*` are rounded as torch rounds them, and `easy_*` are tight enough to imply torch's
    yes whatever it rounds. `needed` is the greatest rtol that the chunk needs at `atol`, and `needed_at` its place.
    `failed` stays set from chunk to chunk: a verdict that is already no need not be sought again.
    """
    reals = [(name, real) for name in ("torch_atol", "torch_rtol", "easy_atol", "easy_rtol")]
    fields = [("atol", np.float64), *reals, ("failed", np.bool_), ("needed", np.float64), ("needed_at", np.int64)]
    return np.dtype(fields, align=True)


TERMS = np.dtype([(name, np.int64) for name in ("shift", "base", "ulp_shift", "ulp_base")] + [("calm", np.float64)])
"""What holds for all of a chunk: histograms' bins, as `Bins` has them; no difference overflows while all are below
`calm`."""


def screen_type(real: type) -> np.dtype[Any]:
    """Three ratios (the relative difference's, two rules'), what two of them allow besides, and a lift.

    The lift is added to differences, so that the roundings of subnormals cannot hide one.
    """
    return np.dtype([(name, real) for name in ("relative", "slope_1", "atol_1", "slope_2", "atol_2", "lift")])


class Block(NamedTuple):
    """The finite pairs of a block as numbers, their distances, and the screen that they are held against."""

    x: Any
    y: Any
    d: Any
    screen: Any


class Places(NamedTuple):
    """Where a block's pairs are: from `start` on, and where some are left out (`kept`), `index` further on."""

    index: Any
    kept: Any
    start: Any


Buffers = namedtuple(
    "Buffers",
    "lines thresholds bins distances wide ulp_bins finite_a finite_b finite_place few_a few_b few_place place "
    "sums squares counts",
)
"""What `narrow.vector_chunk` works in; `vectors.dense` and `vectors.split` say what they put where."""

IntBuffers = namedtuple("IntBuffers", "differences bins place sums counts padded_a padded_b")
"""What `integers.int_chunk` works in; `vector_integers.whole` says what it puts where."""


class Tally(NamedTuple):
    """A histogram that is being made: all of it, or only what percentiles need.

    With `edges`, the bins at which something may begin, only how many numbers are in each of them or `above` is
    counted; without, the four interleaved histograms of `table` are filled. The caller drains either. There is an even
    number of edges.
    """

    table: Any
    edges: Any
    above: Any


class State(NamedTuple):
    """All that a kernel reads and fills besides the two sides; one thread's. `plain` has no `buffers`."""

    block: Block
    rules: Any
    terms: Any
    found: Any
    differences: Tally
    distances: Tally
    buffers: Buffers | IntBuffers | tuple[()]
