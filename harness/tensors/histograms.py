"""Histograms of differences and of ULP distances, their percentiles, and between which bins one is to be looked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.tensors.dtypes import DTYPES, Array, Float64s

SHARES = (0.5, 0.99, 0.999)
"""Which percentiles of differences there are, as shares of all numbers."""
ULP_SHARES = (0.99,)
"""And of ULP distances."""
_MOST = 24  # edges at which a bin may begin: with more it takes as long to count all bins
_DEVIATIONS = 4.0  # standard deviations of a sample's ranks within which a percentile is looked for


@dataclass(frozen=True)
class Bins:
    """A histogram over exponent and leading mantissa bits of a non-negative float64.

    Bin `k` of `size` begins at the number whose bits are `(k + base) << shift`; bin 0 begins at zero. With `shift` 46 a
    bin is 1/64 of an octave wide, so a percentile read from it is low by less than 1.6 %; numbers with at most seven
    significant bits, such as small multiples of a power of two, are exact.
    """

    shift: int
    base: int
    size: int

    def of(self, values: Float64s) -> Array:
        """The bin of each value."""
        found: Array = np.maximum((values.view(np.int64) >> self.shift) - self.base, 0)
        return found

    def edge(self, index: int) -> float:
        """The smallest number in a bin."""
        return float(np.array((index + self.base) << self.shift, np.int64).view(np.float64)) if index else 0.0


def _octaves(shift: int, low: int, high: int) -> Bins:
    """Bins for the numbers from 2**low up to below 2**high, and zero."""
    per_octave = 1 << (52 - shift)
    base = (1023 + low) * per_octave - 1
    return Bins(shift, base, (1023 + high) * per_octave - base)


# The exponents are those of the smallest and the greatest possible difference of two finite numbers.
ABS_BINS = {
    "float16": _octaves(46, -24, 18),
    "bfloat16": _octaves(46, -133, 130),
    "float32": _octaves(46, -149, 130),
    "float64": Bins(46, 0, 2048 << 6),
    "int": _octaves(46, 0, 65),
}
ULP_BINS = _octaves(45, 0, 65)
"""Exact below 256 ULP, then 1/128 of an octave wide."""


def bins_for(dtype: str) -> Bins:
    """The histogram's bins for the differences of a dtype."""
    return ABS_BINS.get(dtype) or ABS_BINS["int" if DTYPES[dtype].kind in ("int", "bool") else "float64"]


def place_of(histogram: Array, share: float) -> int | None:
    """The bin of the percentile by nearest rank, in which the cumulative count first reaches `share` of all."""
    count = int(histogram.sum())
    if count == 0:
        return None
    return int(np.searchsorted(np.cumsum(histogram), max(math.ceil(share * count), 1)))


def edges_around(sample: Array, shares: Sequence[float]) -> Array:
    """Bins that are to be told apart for percentiles, by what the histogram of a sample says.

    Returns:
        Ascending bins above 0, int64: numbers at or above each must be counted. Empty where all bins must be.
    """
    cumulative = np.cumsum(sample)
    count = int(cumulative[-1])
    edges: set[int] = set()
    for share in shares if count else ():
        spread = _DEVIATIONS * math.sqrt(count * share * (1 - share)) + 1
        ranks = np.clip([count * share - spread, count * share + spread], 1, count)
        low, high = np.searchsorted(cumulative, ranks)
        within = low + np.flatnonzero(sample[low : high + 1])
        edges |= {*within.tolist(), *(within + 1).tolist()}
    found = np.array(sorted(edges - {0, sample.size}), np.int64)
    return found if found.size <= _MOST else found[:0]


def from_edges(above: Array, edges: Array, count: int, size: int) -> Array:
    """A histogram of `size` bins in which all numbers between two edges stand in the bin at the lower one.

    Args:
        above: how many numbers are at or above each of `edges`.
        edges: as `edges_around` returns them, at least one.
        count: how many numbers there are.
        size: of the histogram.
    """
    histogram = np.zeros(size, np.int64)
    histogram[[0, *edges]] = -np.diff([count, *above, 0])
    return histogram


def is_certain(histogram: Array, edges: Array, shares: Sequence[float]) -> bool:
    """Whether percentiles of a histogram `from_edges` are the numbers': what stands in their bins is of these alone."""
    ends = {*edges.tolist(), histogram.size}
    places = [place_of(histogram, share) for share in shares]
    return edges.size == 0 or all(place is None or place + 1 in ends for place in places)
