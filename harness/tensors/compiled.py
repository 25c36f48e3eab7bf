"""Comparing big tensors with the compiled kernels, chunks spread over threads."""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Sequence

import numpy as np

from harness.tensors import passes
from harness.tensors.dtypes import DTYPES, Array, decode
from harness.tensors.mapped import give_back, take_in
from harness.tensors.passes import (
    HAS_ULP,
    P99,
    ULP_BINS,
    How,
    Partial,
    Rule,
    Total,
    bins_for,
    each_chunk,
    in_dtype,
    new_total,
    ulp_distance,
)
from harness.tensors.tensor import Tensor

_SAMPLES, _SAMPLED = 64, 1024  # stretches that a guess is from, and the elements of each
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


class _Thread:
    """One thread's records, work arrays and histograms for a kernel."""

    def __init__(self, dtype: str, rules: Sequence[Rule]) -> None:
        from harness.tensors.kernels import compiler, narrow, plain, records

        self.is_float = DTYPES[dtype].kind == "float"
        self.is_wide = dtype == "float64"
        is_narrow = self.is_float and not self.is_wide
        self.kernel = narrow.vector_chunk if is_narrow else plain.float_chunk if self.is_wide else plain.int_chunk
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
        self.terms = np.zeros(1, records.term_type(np.uint16 if dtype in ("float16", "bfloat16") else np.uint32))
        bins = bins_for(dtype)
        self.terms["shift"], self.terms["base"] = bins.shift, bins.base
        self.terms["ulp_shift"], self.terms["ulp_base"] = ULP_BINS.shift, ULP_BINS.base
        if self.is_float:
            self.terms["calm"] = _ROUNDING[dtype][2]
        block = compiler.BLOCK
        screen = np.zeros(1, records.screen_type(real))
        screen["lift"] = _LIFT.get(dtype, 0.0)
        self.found = np.zeros(1, records.FOUND)
        self.nothing = self.found.copy()
        for name in ("max_abs_at", "max_rel_at", "max_ulp_at"):
            self.nothing[name] = -1
        self.nothing["firsts"] = _FAR
        # Four interleaved tables; 32 bits suffice for one chunk, and are half the cache.
        self.abs_table = np.zeros((4, bins.size), np.uint32)
        self.ulp_table = np.zeros((4, ULP_BINS.size), np.uint32)
        self.state = records.State(
            records.Block(np.empty(block, real), np.empty(block, real), np.empty(block), screen[0]), self.rules,
            self.terms[0], self.found[0], self.abs_table, self.ulp_table,
            narrow.buffers(_VIEWS[dtype]) if is_narrow else (),
        )  # fmt: skip
        self.histogram = np.zeros(bins.size, np.int64)

    def look(self, a: Array, b: Array, start: int, distances: _Distances) -> Partial:
        """Compare one chunk, and add its ULP distances to `distances`."""
        self.found[:] = self.nothing
        self.rules["needed"], self.rules["needed_at"] = 0.0, -1
        if self.is_wide:
            self.terms["limit"] = ULP_BINS.of(np.array([float(distances.limit)]))[0]
        else:
            self.terms["limit"] = min(distances.limit, np.iinfo(self.terms["limit"].dtype).max)
        self.kernel(a, b, self.state)
        if self.is_float:
            distances.add(_drain(self.ulp_table))
        self.histogram += _drain(self.abs_table)

        found = dict(zip(self.found.dtype.names or (), self.found[0].item(), strict=True))
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


class _Distances:
    """The ULP histogram of all threads, and the `limit` below which a distance may count as zero.

    Only the 99th percentile is wanted: once as many are at or above a distance as are above it, it lies no lower.
    """

    def __init__(self, n: int, guess: int = 0) -> None:
        self.histogram = np.zeros(ULP_BINS.size, np.int64)
        self.limit = 0
        self._first = self._raise_to(guess)
        self._needed = n - math.ceil(P99 * n) + 1
        self._lock = threading.Lock()

    def add(self, counts: Array) -> None:
        """Add a chunk's counts and raise the limit if they allow it."""
        with self._lock:
            self.histogram += counts
            above = np.cumsum(self.histogram[::-1])
            # The highest bin at or above which there are enough; its edge is a whole number wherever two differ by one.
            self._raise_to(ULP_BINS.size - 1 - int(np.searchsorted(above, self._needed)))

    def _raise_to(self, place: int) -> int:
        """Count only what is in this bin or a higher one."""
        if place > 0:
            self.limit = math.ceil(ULP_BINS.edge(place))
        return place

    @property
    def enough(self) -> bool:
        """Whether the percentile is among what was counted."""
        return self._first == 0 or int(self.histogram[self._first :].sum()) >= self._needed


def _guess(a: Tensor, b: Tensor) -> int:
    """A bin of ULP distances in which, or above which, are three of a hundred of a sample, and so more than needed."""
    starts = np.linspace(0, a.n - _SAMPLED, _SAMPLES, dtype=np.int64)
    p, q = (np.concatenate([_copied(side.flat[start : start + _SAMPLED]) for start in starts]) for side in (a, b))
    finite = np.isfinite(decode(p, a.dtype)) & np.isfinite(decode(q, a.dtype))
    distance = ulp_distance(p[finite], q[finite], a.dtype).astype(np.float64)
    return int(ULP_BINS.of(np.percentile(distance, 97, keepdims=True))[0]) if distance.size else 0


def _copied(part: Array) -> Array:
    """Elements without the pages that they are in, which come with their neighbours."""
    found = part.copy()
    give_back(part)
    return found


def _drain(tables: Array) -> Array:
    """Sum the interleaved tables and clear them."""
    counts: Array = tables.sum(axis=0, dtype=np.int64)
    tables[:] = 0
    return counts


def run(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How, *, guessing: bool = True) -> Total:
    """Compare floats and integers of two bytes and more, in threads: the kernels let go of Python's lock."""
    total = new_total(a.dtype)
    guess = _guess(a, b) if guessing and a.dtype in HAS_ULP and a.n > _SAMPLES * _SAMPLED else 0
    distances = _Distances(a.n, guess)
    local = threading.local()
    hired: list[_Thread] = []
    view = _VIEWS.get(a.dtype, DTYPES[a.dtype].storage)

    def look(p: Array, q: Array, start: int) -> Partial:
        if not hasattr(local, "thread"):
            local.thread = _Thread(a.dtype, rules)
            hired.append(local.thread)
        take_in(p, q)
        # A file's tensor may begin at an odd address; the kernels are compiled for aligned arrays only.
        p, q = (np.require(side, requirements="A").view(view) for side in (p, q))
        found: Partial = local.thread.look(p, q, start, distances)
        return found

    total.parts = list(each_chunk(a.flat, b.flat, how.chunk, look, how.threads))
    if not distances.enough:  # they are greater where the sample is from
        return run(a, b, rules, how, guessing=False)
    for thread in hired:
        total.histogram += thread.histogram
    total.ulps = distances.histogram
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
