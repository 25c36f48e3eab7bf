"""Comparing big tensors with the compiled kernels, chunks spread over threads."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.tensors import passes
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.mapped import give_back, take_in
from harness.tensors.passes import KEPT, ULP_BINS, Partial, Rule, Total, bins_for, new_total
from harness.tensors.tensor import Tensor

COMPILED_FROM = 8_000_000
"""Elements from which the compiled kernels are used: importing numba costs as much as comparing these in NumPy."""

_CHUNK = 1 << 22  # elements a thread takes at a time; fixed, so that sums do not depend on the number of threads
P99 = 0.99
_FAR = np.iinfo(np.int64).max
VIEWS = {"float16": "<u2", "bfloat16": "<i2", "float32": "<u4", "float64": "<u8"}  # the kernels tell formats by these


def compiled_available(dtype: str) -> bool:
    """Whether the kernels work here for a dtype; without them the same numbers come from NumPy, slower."""
    try:
        from harness.tensors.kernels import compiler
    except ImportError:  # pragma: no cover - numba is a dependency; this is for platforms without a wheel
        return False
    return dtype != "float16" or compiler.CONVERTS_HALF


def _chunks(n: int, task: Callable[[int], None], threads: int | None) -> None:
    """Run `task(start)` for each chunk; the first exception ends it."""
    starts = range(0, n, _CHUNK)
    count = min(threads or len(os.sched_getaffinity(0)), len(starts))
    if count <= 1:
        for start in starts:
            task(start)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(task, starts):
            pass


# Significant bits (two fewer where the test itself is computed in that width), smallest subnormal, and a bound below
# which no difference overflows.
_ROUNDING = {
    "float16": (11, 2.0**-24, 2.0**15),
    "bfloat16": (8, 2.0**-133, 2.0**126),
    "float32": (22, 2.0**-149, 2.0**126),
    "float64": (51, 2.0**-1074, 2.0**1022),
}


class _Sink:
    """One thread's work arrays and histograms for the compiled kernels.

    `f` holds the sums |a-b|, aa, bb, ab, (a-b)(a-b), then max abs, max rel, and per rule the greatest needed rtol; `at`
    the places of max abs, max rel, max ULP, and per rule; `n` counts finite pairs, differing ones, those against zero,
    whether bits differ, the six special counts, places that are special apart, and special mismatches.
    """

    def __init__(self, dtype: str, rules: Sequence[Rule]) -> None:
        from harness.tensors.kernels import compiler, narrow

        self.dtype = dtype
        self.float = DTYPES[dtype].kind == "float"
        wide = dtype == "float64"
        real = np.float64 if wide else np.float32
        self.bins = bins_for(dtype)
        # Four interleaved tables; 32 bits suffice for one chunk, and are half the cache.
        self.h = np.zeros((4, self.bins.size), np.uint32)
        self.g = np.zeros((4, ULP_BINS.size), np.uint32)
        self.x, self.y = np.empty(compiler.BLOCK, real), np.empty(compiler.BLOCK, real)
        self.u = np.zeros(1, np.uint64 if dtype in ("float32", "float64") else np.uint32)
        self.work = narrow.work_arrays(VIEWS[dtype], self.u.dtype) if self.float and not wide else ()
        self.limit = np.zeros(1, np.uint32 if dtype == "float32" else np.uint16)
        self.wide_atols = np.array([atol for atol, _ in rules], np.float64)
        self.atols = np.array([passes.in_dtype(atol, dtype) for atol, _ in rules], real)
        self.rtols = np.array([rtol for _, rtol in rules], np.float64).astype(real)
        # Rounding to p bits changes a number by at most 2**-p of itself, or half the smallest subnormal: tolerances
        # this much tighter, met in float64, are met in the dtype's own arithmetic, unless a difference overflows.
        bits, smallest, self.calm = _ROUNDING[dtype] if self.float else (0, 0.0, 0.0)
        self.easy_rtols = np.array([rtol for _, rtol in rules]) * (1 - 2.0 ** (2 - bits))
        self.easy_atols = self.atols.astype(np.float64) * (1 - 2.0 ** (2 - bits)) - 2 * smallest
        self.easy_rtols, self.easy_atols = self.easy_rtols.astype(real), self.easy_atols.astype(real)
        # The smallest normal number: a subnormal one would make the processor take its slow path for every equal pair.
        self.tiny = 0.0 if dtype == "float16" else 2.0**-1022 if wide else 2.0**-126
        # Stays set from chunk to chunk: a verdict that is already no need not be sought again.
        self.failed = np.zeros(len(rules), np.bool_)
        self.histogram = np.zeros(self.bins.size, np.int64)

    def run(self, a: Array, b: Array, start: int, distances: _Distances) -> Partial:
        """Compare one chunk, and add its ULP distances to `distances`."""
        from harness.tensors.kernels import exact, narrow
        from harness.tensors.kernels import wide as wide_module

        rules = self.wide_atols.size
        f = np.zeros(7 + rules)
        at = np.full(3 + rules, -1, np.int64)
        n = np.zeros(12, np.int64)
        top = np.zeros(1, np.uint64)
        firsts = np.full(KEPT, _FAR, np.int64)
        if self.float and self.dtype != "float64":
            view = VIEWS[self.dtype]
            self.limit[0] = min(distances.limit, (1 << 8 * self.limit.itemsize) - 1)
            narrow.vector_chunk(
                a.view(view), b.view(view), self.x, self.y, self.u, self.rtols, self.atols, self.wide_atols,
                self.easy_rtols, self.easy_atols, self.calm, np.float32(self.tiny),
                self.failed, self.h, self.bins.base, self.g, ULP_BINS.shift, ULP_BINS.base, self.limit,
                f, at, n, top, firsts, self.work,
            )  # fmt: skip
            distances.add(_drain(self.g))
        elif self.float:
            view = VIEWS[self.dtype]
            wide_module.float_chunk(
                a.view(view), b.view(view), self.x, self.y, self.u, self.rtols, self.atols, self.wide_atols,
                self.easy_rtols, self.easy_atols, self.calm, self.tiny,
                self.failed, self.h, self.bins.shift, self.bins.base, self.g, ULP_BINS.shift, ULP_BINS.base,
                np.uint32(ULP_BINS.of(np.array([float(distances.limit)]))[0]), f, at, n, top, firsts,
            )  # fmt: skip
            distances.add(_drain(self.g))
        else:
            exact.int_chunk(a, b, self.wide_atols, self.h, self.bins.shift, self.bins.base, f, at, n, firsts)
        self.histogram += _drain(self.h)
        return Partial(
            finite=int(n[0]), differ=int(n[1]), against_zero=int(n[2]), bits_apart=bool(n[3]),
            special=[int(count) for count in n[4:10]], special_apart=int(n[10]), special_differ=int(n[11]),
            sums=(float(f[0]), float(f[1]), float(f[2]), float(f[3]), float(f[4])),
            max_abs=(float(f[5]), start + int(at[0])), max_rel=(float(f[6]), start + int(at[1])),
            max_ulp=(int(top[0]), start + int(at[2])),
            ratios=[(float(f[7 + k]), start + int(at[3 + k])) for k in range(rules)],
            failed=[bool(flag) for flag in self.failed],
            firsts=[start + int(place) for place in firsts if place != _FAR],
        )  # fmt: skip


class _Distances:
    """The ULP histogram of all threads, and the distance below which counting has become pointless.

    Only the 99th percentile is wanted, which among n elements is the `needed`-th greatest at most. As soon as as many
    have been seen at or above some distance, it cannot lie below that distance, and what does is counted as zero. After
    a tenth of a tensor whose parts are alike, nine tenths of the rest are. The result is the same as with every one
    counted.
    """

    def __init__(self, n: int) -> None:
        self.histogram = np.zeros(ULP_BINS.size, np.int64)
        self.limit = 0
        self._needed = n - math.ceil(P99 * n) + 1
        self._lock = threading.Lock()

    def add(self, counts: Array) -> None:
        """Add a chunk's counts and raise the limit if they allow it."""
        with self._lock:
            self.histogram += counts
            above = np.cumsum(self.histogram[::-1])
            # The highest bin at or above which there are enough; its edge is a whole number wherever two differ by one.
            place = ULP_BINS.size - 1 - int(np.searchsorted(above, self._needed))
            if place > 0:
                self.limit = math.ceil(ULP_BINS.edge(place))


def _drain(tables: Array) -> Array:
    """Sum the interleaved tables and clear them."""
    counts: Array = tables.sum(axis=0, dtype=np.int64)
    tables[:] = 0
    return counts


def compiled(a: Tensor, b: Tensor, rules: Sequence[Rule], threads: int | None) -> Total:
    """The compiled kernels, chunks spread over threads (they release the interpreter's lock)."""
    total = new_total(a.dtype)
    x, y = a.flat, b.flat
    distances = _Distances(a.n)
    local = threading.local()
    sinks: list[_Sink] = []
    parts: dict[int, Partial] = {}

    def task(start: int) -> None:
        if not hasattr(local, "sink"):
            local.sink = _Sink(a.dtype, rules)
            sinks.append(local.sink)
        p, q = x[start : start + _CHUNK], y[start : start + _CHUNK]
        take_in(p, q)
        # A file's tensor may begin at an odd address; the kernels are compiled for aligned arrays only.
        parts[start] = local.sink.run(
            np.require(p, requirements="A"), np.require(q, requirements="A"), start, distances
        )
        give_back(p, q)

    _chunks(a.n, task, threads)
    total.parts = [parts[start] for start in sorted(parts)]
    for sink in sinks:
        total.histogram += sink.histogram
    total.ulps = distances.histogram
    return total


def pair_counts(a: Tensor, b: Tensor, threads: int | None = None) -> Array:
    """How often each pair of bytes occurs in two tensors of a one-byte dtype, shape (256, 256), int64."""
    x, y = a.flat.view(np.uint8), b.flat.view(np.uint8)
    counts = np.zeros((256, 256), np.int64)
    lock = threading.Lock()
    compiled = a.n >= COMPILED_FROM and compiled_available(a.dtype)

    def task(start: int) -> None:
        p, q = x[start : start + _CHUNK], y[start : start + _CHUNK]
        if compiled:
            from harness.tensors.kernels import exact

            table = np.zeros((4, 65536), np.uint32)
            exact.pair_chunk(p, q, table)
            found = table.sum(axis=0, dtype=np.int64).reshape(256, 256)
        else:
            found = passes.pairs(p, q)
        with lock:
            np.add(counts, found, out=counts)
        give_back(p, q)

    _chunks(a.n, task, threads)
    return counts
