"""Comparing big tensors with the compiled kernels, chunks spread over threads."""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.tensors import passes
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.histograms import (
    SHARES,
    ULP_BINS,
    ULP_SHARES,
    Bins,
    bins_for,
    edges_around,
    from_edges,
    is_certain,
)
from harness.tensors.mapped import give_back, take_in
from harness.tensors.passes import How, Partial, Rule, Total, each_chunk, in_dtype, new_total
from harness.tensors.tensor import Tensor

_SAMPLES, _SAMPLED = 64, 4096  # at most so many stretches tell where percentiles may be, each of so many elements
_SPARED = 64  # no more than one of so many elements is in them
_FAR = np.iinfo(np.int64).max
_VIEWS = {"float16": "<u2", "bfloat16": "<i2", "float32": "<u4", "float64": "<u8"}  # the kernels tell formats by these


def usable(dtype: str, n: int, how: How) -> bool:
    """Whether the kernels are worth it and work here; without them the same numbers come from NumPy, slower."""
    if n < how.compiled_from or importlib.util.find_spec("numba") is None:
        return False
    from harness.tensors.kernels import compiler

    return dtype != "float16" or (compiler.CONVERTS_HALF if how.converts_half is None else how.converts_half)


# Significant bits (two fewer where the test itself is computed in that width), smallest subnormal, and a bound below
# which no difference overflows.
_ROUNDING = {
    "float16": (11, 2.0**-24, 2.0**15),
    "bfloat16": (8, 2.0**-133, 2.0**126),
    "float32": (22, 2.0**-149, 2.0**126),
    "float64": (51, 2.0**-1074, 2.0**1022),
}
# Added to differences by a screen. Of floats, the smallest normal number: a subnormal one would make the processor take
# its slow path for every equal pair. As float64, 64-bit integers may be equal that are not: every block must pass.
_LIFT = {
    "bfloat16": 2.0**-126,
    "float32": 2.0**-126,
    "float64": 2.0**-1022,
    "int64": 2.0**64,
    "uint64": 2.0**64,
}


class _Counted:
    """One histogram of one thread, of which perhaps only what is at or above some edges is told apart."""

    def __init__(self, size: int, edges: Array, units: Array) -> None:
        """`units` are `edges` as the kernel compares them, in its own dtype, without those that nothing reaches."""
        from harness.tensors.kernels.records import Tally

        self._edges, self._reached, self._size, self._count = edges, units.size, size, 0
        # Four interleaved tables; 32 bits suffice for one chunk, and are half the cache. With edges only the first bin
        # is written to, which nobody reads.
        table, above = np.zeros((4, 1 if units.size else size), np.uint32), np.zeros(edges.size + 1, np.int64)
        self.tally = Tally(table, np.pad(units, (0, units.size % 2)), above)
        self._drained = np.zeros(0 if units.size else size, np.int64)

    def drain(self, count: int) -> None:
        """Take what a chunk of so many numbers has left, and begin again."""
        if self._reached:
            self._count += count
            return
        self._drained += self.tally.table.sum(axis=0, dtype=np.int64)
        self.tally.table[:] = 0

    def histogram(self) -> Array:
        """Of all that was drained, int64; between two edges all stands in the bin at the lower one."""
        if not self._reached:
            return self._drained
        above = self.tally.above[: self._edges.size].copy()
        above[self._reached :] = 0
        return from_edges(above, self._edges, self._count, self._size)


class _Edges(NamedTuple):
    """The bins that are told apart; all of them where there are none."""

    differences: Array = np.zeros(0, np.int64)
    distances: Array = np.zeros(0, np.int64)


class _Thread:
    """One thread's records, work arrays and histograms for a kernel."""

    def __init__(self, dtype: str, rules: Sequence[Rule], edges: _Edges) -> None:
        from harness.tensors.kernels import compiler, integers, narrow, plain, records

        is_float, is_wide = DTYPES[dtype].kind == "float", dtype == "float64"
        is_narrow, is_int = is_float and not is_wide, not is_float and DTYPES[dtype].itemsize < 8
        self._view = _VIEWS.get(dtype, DTYPES[dtype].storage)
        wide = plain.float_chunk if is_wide else plain.long_chunk
        self.kernel = narrow.vector_chunk if is_narrow else integers.int_chunk if is_int else wide
        real = np.float32 if is_narrow else np.float64
        self.rules = np.zeros(len(rules), records.rule_type(real))
        if rules:
            self.rules["atol"] = [atol for atol, _ in rules]
            self.rules["torch_atol"] = [in_dtype(atol, dtype) for atol, _ in rules]
            self.rules["torch_rtol"] = rtols = np.array([rtol for _, rtol in rules])
            # Rounding to p bits changes a number by at most 2**-p of itself, or half the smallest subnormal: tolerances
            # this much tighter, met in float64, are met in the dtype's own arithmetic, unless a difference overflows.
            bits, smallest, _ = _ROUNDING[dtype]
            self.rules["easy_rtol"] = rtols * (1 - 2.0 ** (2 - bits))
            self.rules["easy_atol"] = self.rules["torch_atol"].astype(float) * (1 - 2.0 ** (2 - bits)) - 2 * smallest
        terms = np.zeros(1, records.TERMS)
        bins = bins_for(dtype)
        terms["shift"], terms["base"] = bins.shift, bins.base
        terms["ulp_shift"], terms["ulp_base"] = ULP_BINS.shift, ULP_BINS.base
        if is_float:
            terms["calm"] = _ROUNDING[dtype][2]
        x, y = (compiler.aligned(compiler.BLOCK, real) for _ in range(2))
        screen = np.zeros(1, records.screen_type(real))
        screen["lift"] = _LIFT.get(dtype, 0.0)
        self.found = np.zeros(1, records.FOUND)
        self.nothing = self.found.copy()
        for name in ("max_abs_at", "max_rel_at", "max_ulp_at"):
            self.nothing[name] = -1
        self.nothing["firsts"] = _FAR
        self.differences = _Counted(
            bins.size, edges.differences,
            _flipped(bins, edges.differences, np.uint8) if DTYPES[dtype].itemsize == 1
            else edges.differences.astype(np.uint32 if is_wide else np.uint16),
        )  # fmt: skip
        self.distances = _Counted(
            ULP_BINS.size, edges.distances,
            _flipped(ULP_BINS, edges.distances, np.uint32 if dtype == "float32" else np.uint16) if is_narrow
            else edges.distances.astype(np.uint32),
        )  # fmt: skip
        self.state = records.State(
            records.Block(x, y, compiler.aligned(compiler.BLOCK, np.float64), screen[0]), self.rules,
            terms[0], self.found[0], self.differences.tally, self.distances.tally,
            narrow.buffers(_VIEWS[dtype]) if is_narrow else integers.buffers(self._view) if is_int else (),
        )  # fmt: skip

    def look(self, a: Array, b: Array, start: int) -> Partial:
        """Compare one chunk."""
        self.found[:] = self.nothing
        self.rules["needed"], self.rules["needed_at"] = 0.0, -1
        # A file's tensor may begin at an odd address; the kernels are compiled for aligned arrays only.
        p, q = (np.require(side, requirements="A").view(self._view) for side in (a, b))
        self.kernel(p, q, self.state)

        found = dict(zip(self.found.dtype.names or (), self.found[0].item(), strict=True))
        for counted in (self.differences, self.distances):
            counted.drain(found["finite"])
        return Partial(
            **{name: found[name] for name in ("finite", "differ", "against_zero", "special_apart", "special_differ")},
            bits_apart=bool(found["bits_apart"]),
            special=[found[name] for name in ("nan_a", "nan_b", "up_a", "up_b", "down_a", "down_b")],
            sums=tuple(found[name] for name in ("sum_abs", "sum_aa", "sum_bb", "sum_ab", "sum_dd")),
            max_abs=(found["max_abs"], start + found["max_abs_at"]),
            max_rel=(found["max_rel"], start + found["max_rel_at"]),
            max_ulp=(found["max_ulp"], start + found["max_ulp_at"]),
            ratios=[(needed, start + place) for needed, place in self.rules[["needed", "needed_at"]].tolist()],
            failed=self.rules["failed"].tolist(),
            firsts=[start + int(place) for place in found["firsts"] if place != _FAR],
        )


def _sample(side: Tensor) -> Array:
    """Stretches from all over a tensor, without the pages that they are in, which come with their neighbours."""
    stretches = min(_SAMPLES, side.n // (_SPARED * _SAMPLED))
    parts = []
    for start in np.linspace(0, side.n - _SAMPLED, stretches, dtype=np.int64):
        part = side.flat[start : start + _SAMPLED]
        parts.append(part.copy())
        give_back(part)
    return np.concatenate(parts)


def _flipped(bins: Bins, edges: Array, word: type[np.unsignedinteger[Any]]) -> Array:
    """The smallest integers of each bin, as kernels hold what they compare as signed integers: the top bit flipped."""
    kind = np.iinfo(word)
    least = [math.ceil(bins.edge(int(edge))) for edge in edges]
    found: Array = np.array([one for one in least if one <= kind.max], word) ^ word(1 << (kind.bits - 1))
    return found


def run(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How) -> Total:
    """Compare floats of two bytes and more and integers, in threads: the kernels let go of Python's lock.

    Where the percentiles are is first asked of a sample, and all bins are counted where that was wrong.
    """
    if a.n < _SPARED * _SAMPLED:
        return _gone_through(a, b, rules, how, _Edges())
    told = _Thread(a.dtype, [], _Edges())
    told.look(_sample(a), _sample(b), 0)
    edges = _Edges(
        edges_around(told.differences.histogram(), SHARES), edges_around(told.distances.histogram(), ULP_SHARES)
    )
    total = _gone_through(a, b, rules, how, edges)
    if is_certain(total.histogram, edges.differences, SHARES) and is_certain(total.ulps, edges.distances, ULP_SHARES):
        return total
    return _gone_through(a, b, rules, how, _Edges())


def _gone_through(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How, edges: _Edges) -> Total:
    total = new_total(a.dtype)
    local = threading.local()
    hired: list[_Thread] = []

    def look(p: Array, q: Array, start: int) -> Partial:
        if not hasattr(local, "thread"):
            local.thread = _Thread(a.dtype, rules, edges)
            hired.append(local.thread)
        take_in(p, q)
        found: Partial = local.thread.look(p, q, start)
        return found

    total.parts = list(each_chunk(a.flat, b.flat, how.chunk, look, how.threads))
    for thread in hired:
        total.histogram += thread.differences.histogram()
        total.ulps += thread.distances.histogram()
    return total


class Pairs:
    """How often each of the 65,536 pairs of bytes occurs, as `passes.pairs` has it; each thread counts by itself."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[Array] = []

    def count(self, a: Array, b: Array) -> None:
        """Count the pairs of two uint8 arrays of less than 2^32 elements."""
        from harness.tensors.kernels import plain

        if not hasattr(self._own, "counts"):
            self._own.counts = np.zeros(1 << 16, np.uint32), np.zeros(1 << 16, np.int64)
            self._all.append(self._own.counts[1])
        narrow, counts = self._own.counts
        take_in(a, b)
        whole = a.size // 8 * 8
        words = (np.require(side[:whole].view(np.uint64), requirements="A") for side in (a, b))
        plain.pair_chunk(*words, narrow)
        counts += narrow
        narrow[:] = 0
        if whole < a.size:
            counts += passes.pairs(a[whole:], b[whole:]).reshape(-1)

    def pairs(self) -> Array:
        """What was counted, shape (256, 256), int64."""
        return sum(self._all, np.zeros(1 << 16, np.int64)).reshape(256, 256)
