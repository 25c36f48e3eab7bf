"""Every metric of a pair of tensors in one pass over both, with bounded memory.

The verdicts are those of `torch.allclose` in the tensors' own dtype, B being the reference; everything else is computed
in float64 over the places where both sides are finite. See docs/comparing.md for what each number means.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness import _passes
from harness._passes import ABS_BINS, KEPT, ULP_BINS, Bins, Partial, Rule
from harness.errors import UsageError
from harness.tensors import DTYPES, Array, Tensor, give_back, take_in

COMPILED_FROM = 8_000_000
"""Elements from which the compiled kernels are used: importing numba costs as much as comparing these in NumPy."""

_CHUNK = 1 << 22  # elements a thread takes at a time; fixed, so that sums do not depend on the number of threads
_NUMPY_CHUNK = 1 << 15  # bigger work arrays would be fresh pages each time, which cost more than the arithmetic
_P99 = 0.99
_FAR = np.iinfo(np.int64).max
_VIEWS = {"float16": "<u2", "bfloat16": "<i2", "float32": "<u4", "float64": "<u8"}  # the kernels tell formats by these


@dataclass(frozen=True)
class Profile:
    """A tolerance: atol and rtol per dtype; integers and booleans are equal or not under every profile.

    `rules` maps torch's dtype names to (atol, rtol); `default` serves the other floats.
    """

    name: str
    default: Rule
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for dtype, rule in (("default", self.default), *self.rules.items()):
            if len(rule) != 2 or not all(math.isfinite(value) and value >= 0 for value in rule):
                raise UsageError(
                    f"Profile {self.name!r}: {dtype} must be a pair of atol and rtol, both finite and not negative."
                )

    def rule(self, dtype: str) -> Rule:
        """The atol and rtol for a dtype."""
        return self.rules.get(dtype, self.default)


DEFAULT = Profile("default", (1e-8, 1e-5))
"""`torch.allclose`'s own defaults, whatever the dtype."""
BNB = Profile("bnb", (1e-4, 1e-3), {"float32": (1e-6, 1e-5), "bfloat16": (1e-3, 1e-2)})
"""The tolerances of bitsandbytes' optimizer tests."""
BUILTIN = (DEFAULT, BNB)


@dataclass(frozen=True)
class Verdict:
    """What one profile says about a pair.

    `close` is `torch.allclose`'s answer; None where torch raises (float8). `min_rtol` is the smallest rtol with which
    |a-b| <= atol + rtol*|b| holds everywhere at this atol, in exact arithmetic on float64; infinite where no rtol would
    do; None for integers. `min_rtol_index` is the place that needs it.
    """

    profile: str
    atol: float
    rtol: float
    close: bool | None
    min_rtol: float | None = None
    min_rtol_index: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Mismatch:
    """One place where the two sides differ."""

    index: tuple[int, ...]
    a: float | int | complex
    b: float | int | complex


@dataclass(frozen=True)
class Metrics:
    """Everything known about the values of two tensors of equal shape and dtype.

    Differences, sums and percentiles are over the `n_finite` places where both sides are finite. Percentiles are the
    nearest rank's histogram bin, at its lower edge: low by less than 1.6 % (0.8 % for ULP).
    """

    n: int
    n_mismatch: int  # places where a != b: +0 equals -0, NaN equals nothing
    bit_equal: bool
    n_finite: int
    max_abs: float
    max_abs_at: Mismatch | None
    mean_abs: float | None
    max_rel: float  # infinite where a reference of zero is not met
    max_rel_at: Mismatch | None  # the greatest finite one
    n_rel_inf: int
    p50_abs: float | None
    p99_abs: float | None
    p999_abs: float | None
    max_ulp: int | None
    max_ulp_at: Mismatch | None
    p99_ulp: int | None
    rel_l2: float | None
    cosine: float | None
    nan_a: int
    nan_b: int
    posinf_a: int
    posinf_b: int
    neginf_a: int
    neginf_b: int
    specials_apart: int  # places where one side is NaN, +inf or -inf and the other is not the same
    first: tuple[Mismatch, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def value_equal(self) -> bool:
        """Whether a == b everywhere."""
        return self.n_mismatch == 0


def measure(a: Tensor, b: Tensor, profiles: Sequence[Profile] = BUILTIN, *, threads: int | None = None) -> Metrics:
    """Compare two tensors of equal shape and dtype; B is the reference of every relative number.

    Args:
        a: one side; mapped tensors are streamed, and their pages given back as they are done with.
        b: the reference.
        profiles: tolerances to judge by, any number in the one pass.
        threads: how many threads a big tensor may take; all cores unless told. The result does not depend on it.

    Raises:
        ValueError: shapes or dtypes differ, which the caller reports before it asks for values.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot measure {a.dtype} {a.shape} against {b.dtype} {b.shape}")
    kind = DTYPES[a.dtype].kind
    rules = [profile.rule(a.dtype) for profile in profiles] if kind in ("float", "complex") else []
    if DTYPES[a.dtype].itemsize == 1:
        total = _bytes(a, b, rules, threads)
    elif a.n >= COMPILED_FROM and kind in ("float", "int") and _compiled_available(a.dtype):
        total = _compiled(a, b, rules, threads)
    else:
        total = _plain(a, b, rules)
    return _finish(a, b, total, profiles, rules)


@dataclass
class _Total:
    """Chunks' partial results put together in the chunks' order."""

    bins: Bins
    histogram: Array
    ulps: Array
    parts: list[Partial] = field(default_factory=list)


def _bins_for(dtype: str) -> Bins:
    if dtype in ABS_BINS:
        return ABS_BINS[dtype]
    kind = DTYPES[dtype].kind
    return ABS_BINS["int" if kind == "bool" else "float64" if kind == "float" else kind]


def _new_total(dtype: str) -> _Total:
    bins = _bins_for(dtype)
    return _Total(bins, np.zeros(bins.size, np.int64), np.zeros(ULP_BINS.size, np.int64))


def _plain(a: Tensor, b: Tensor, rules: Sequence[Rule]) -> _Total:
    """NumPy, one chunk after the other."""
    total = _new_total(a.dtype)
    x, y = a.flat, b.flat
    for start in range(0, a.n, _NUMPY_CHUNK):
        p, q = x[start : start + _NUMPY_CHUNK], y[start : start + _NUMPY_CHUNK]
        total.parts.append(_passes.array_chunk(p, q, a.dtype, start, rules, total.histogram, total.ulps))
    return total


def _compiled_available(dtype: str) -> bool:
    """Whether the kernels work here for a dtype; without them the same numbers come from NumPy, slower."""
    try:
        from harness import _kernels
    except ImportError:  # pragma: no cover - numba is a dependency; this is for platforms without a wheel
        return False
    return dtype != "float16" or _kernels.CONVERTS_HALF


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
        from harness import _kernels

        self.kernels = _kernels
        self.dtype = dtype
        self.float = DTYPES[dtype].kind == "float"
        wide = dtype == "float64"
        real = np.float64 if wide else np.float32
        self.bins = _bins_for(dtype)
        # Four interleaved tables; 32 bits suffice for one chunk, and are half the cache.
        self.h = np.zeros((4, self.bins.size), np.uint32)
        self.g = np.zeros((4, ULP_BINS.size), np.uint32)
        self.x, self.y = np.empty(_kernels.BLOCK, real), np.empty(_kernels.BLOCK, real)
        self.u = np.zeros(1, np.uint64 if dtype in ("float32", "float64") else np.uint32)
        self.work = _kernels.work_arrays(_VIEWS[dtype], self.u.dtype) if self.float and not wide else ()
        self.limit = np.zeros(1, np.uint32 if dtype == "float32" else np.uint16)
        self.wide_atols = np.array([atol for atol, _ in rules], np.float64)
        self.atols = np.array([_passes.in_dtype(atol, dtype) for atol, _ in rules], real)
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
        rules = self.wide_atols.size
        f = np.zeros(7 + rules)
        at = np.full(3 + rules, -1, np.int64)
        n = np.zeros(12, np.int64)
        top = np.zeros(1, np.uint64)
        firsts = np.full(KEPT, _FAR, np.int64)
        if self.float and self.dtype != "float64":
            view = _VIEWS[self.dtype]
            self.limit[0] = min(distances.limit, (1 << 8 * self.limit.itemsize) - 1)
            self.kernels.vector_chunk(
                a.view(view), b.view(view), self.x, self.y, self.u, self.rtols, self.atols, self.wide_atols,
                self.easy_rtols, self.easy_atols, self.calm, np.float32(self.tiny),
                self.failed, self.h, self.bins.base, self.g, ULP_BINS.shift, ULP_BINS.base, self.limit,
                f, at, n, top, firsts, self.work,
            )  # fmt: skip
            distances.add(_drain(self.g))
        elif self.float:
            view = _VIEWS[self.dtype]
            self.kernels.float_chunk(
                a.view(view), b.view(view), self.x, self.y, self.u, self.rtols, self.atols, self.wide_atols,
                self.easy_rtols, self.easy_atols, self.calm, self.tiny,
                self.failed, self.h, self.bins.shift, self.bins.base, self.g, ULP_BINS.shift, ULP_BINS.base,
                np.uint32(ULP_BINS.of(np.array([float(distances.limit)]))[0]), f, at, n, top, firsts,
            )  # fmt: skip
            distances.add(_drain(self.g))
        else:
            self.kernels.int_chunk(a, b, self.wide_atols, self.h, self.bins.shift, self.bins.base, f, at, n, firsts)
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
        self._needed = n - math.ceil(_P99 * n) + 1
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


def _compiled(a: Tensor, b: Tensor, rules: Sequence[Rule], threads: int | None) -> _Total:
    """The compiled kernels, chunks spread over threads (they release the interpreter's lock)."""
    total = _new_total(a.dtype)
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
    compiled = a.n >= COMPILED_FROM and _compiled_available(a.dtype)

    def task(start: int) -> None:
        p, q = x[start : start + _CHUNK], y[start : start + _CHUNK]
        if compiled:
            from harness import _kernels

            table = np.zeros((4, 65536), np.uint32)
            _kernels.pair_chunk(p, q, table)
            found = table.sum(axis=0, dtype=np.int64).reshape(256, 256)
        else:
            found = _passes.pairs(p, q)
        with lock:
            np.add(counts, found, out=counts)
        give_back(p, q)

    _chunks(a.n, task, threads)
    return counts


def _bytes(a: Tensor, b: Tensor, rules: Sequence[Rule], threads: int | None) -> _Total:
    """One-byte dtypes: count the 65,536 pairs, and compute every metric from the counts."""
    total = _new_total(a.dtype)
    x, y = a.flat.view(np.uint8), b.flat.view(np.uint8)
    counts = pair_counts(a, b, threads)
    # Each distinct pair is an element of a small problem, weighted by its count.
    left, right = (side.astype(np.uint8) for side in np.nonzero(counts))
    weights = counts[left, right]
    values = _passes.byte_values(a.dtype)
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
        failed=[_passes.judged(a.dtype) and bool(unequal.any()) for _ in rules],
    )
    apart = ~finite & unequal & ~(np.isnan(u) & np.isnan(v))
    part.special_apart = int(weights[apart].sum())
    p, q, d, w = u[finite], v[finite], difference[finite], weights[finite]
    part.sums = (float(d @ w), float((p * p) @ w), float((q * q) @ w), float((p * q) @ w), float((d * d) @ w))
    np.add.at(total.histogram, total.bins.of(d), w)

    def place(scores: Array) -> tuple[float, int]:
        best = float(scores.max()) if scores.size else 0.0
        if best <= 0:
            return 0.0, -1
        return best, _find(x, y, left[scores == best], right[scores == best], 1)[0]

    part.max_abs = place(difference)
    relative = np.divide(difference, reference, out=np.zeros_like(difference), where=reference > 0)
    part.max_rel = place(relative)
    for atol, _ in rules:
        needed = np.divide(difference - atol, reference, out=np.zeros_like(difference), where=reference > 0)
        needed[(reference == 0) & (difference > atol)] = math.inf
        part.ratios.append(place(needed))
    if unequal.any():
        part.firsts = _find(x, y, left[unequal], right[unequal], KEPT)
    total.parts.append(part)
    return total


def _classes(which: str, u: Array, v: Array) -> Iterable[Array]:
    for side in (u, v):
        yield np.isnan(side) if which == "nan" else side == (math.inf if which == "up" else -math.inf)


def _find(x: Array, y: Array, left: Array, right: Array, count: int) -> list[int]:
    """Flat indices of the first `count` places that hold one of these pairs of bytes."""
    wanted = np.zeros(65536, np.bool_)
    wanted[(left.astype(np.uint16) << 8) | right] = True
    found: list[int] = []
    for start in range(0, x.size, _NUMPY_CHUNK):
        p, q = x[start : start + _NUMPY_CHUNK], y[start : start + _NUMPY_CHUNK]
        hits = np.flatnonzero(wanted[(p.astype(np.uint16) << 8) | q])
        found += [start + int(hit) for hit in hits[: count - len(found)]]
        give_back(p, q)
        if len(found) >= count:
            break
    return found


def _best(candidates: Iterable[tuple[Any, int]]) -> tuple[Any, int]:
    """The greatest value, and the first place that has it."""
    best: tuple[Any, int] = (0, -1)
    for value, place in candidates:
        if value > best[0]:
            best = value, place
    return best


def _percentile(histogram: Array, bins: Bins, share: float, top: float) -> float | None:
    """Nearest-rank percentile: the bin in which the cumulative count first reaches `share` of all."""
    count = int(histogram.sum())
    if count == 0:
        return None
    rank = max(math.ceil(share * count), 1)
    return min(bins.edge(int(np.searchsorted(np.cumsum(histogram), rank))), top)


def element(tensor: Tensor, place: int) -> float | int | complex:
    """One element as a Python number."""
    raw = tensor.flat[place : place + 1]
    if DTYPES[tensor.dtype].kind in ("int", "bool"):
        return int(raw[0])
    number = _passes.decode(raw, tensor.dtype)[0]
    return complex(number) if DTYPES[tensor.dtype].kind == "complex" else float(number)


def _finish(a: Tensor, b: Tensor, total: _Total, profiles: Sequence[Profile], rules: Sequence[Rule]) -> Metrics:
    """Put the chunks together."""
    parts = total.parts

    def at(place: int) -> Mismatch | None:
        if place < 0:
            return None
        index = tuple(int(axis) for axis in np.unravel_index(place, a.shape)) if a.shape else ()
        return Mismatch(index, element(a, place), element(b, place))

    def count(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    sums = [_sum(part.sums[k] for part in parts) for k in range(5)]
    finite, special_differ, against_zero = count("finite"), count("special_differ"), count("against_zero")
    max_abs, abs_place = _best(part.max_abs for part in parts)
    max_rel, rel_place = _best(part.max_rel for part in parts)
    max_ulp, ulp_place = _best(part.max_ulp for part in parts)
    has_ulp = a.dtype in _VIEWS
    mismatches = count("differ") + special_differ
    verdicts = []
    for k, profile in enumerate(profiles):
        if not rules:
            verdicts.append(Verdict(profile.name, 0.0, 0.0, mismatches == 0))
            continue
        atol, rtol = rules[k]
        needed, place = _best(part.ratios[k] for part in parts)
        where = at(place)
        close = not any(part.failed[k] for part in parts) if _passes.judged(a.dtype) else None
        least = math.inf if special_differ else float(needed)
        verdicts.append(Verdict(profile.name, atol, rtol, close, least, where.index if where else None))
    firsts = [place for part in parts for place in part.firsts][:KEPT]
    special = [sum(part.special[k] for part in parts) for k in range(6)]
    p99_ulp = _percentile(total.ulps, ULP_BINS, _P99, max_ulp) if has_ulp else None
    return Metrics(
        n=a.n, n_mismatch=mismatches, bit_equal=not any(part.bits_apart for part in parts), n_finite=finite,
        max_abs=float(max_abs), max_abs_at=at(abs_place), mean_abs=sums[0] / finite if finite else None,
        max_rel=math.inf if against_zero else float(max_rel), max_rel_at=at(rel_place), n_rel_inf=against_zero,
        p50_abs=_percentile(total.histogram, total.bins, 0.5, max_abs),
        p99_abs=_percentile(total.histogram, total.bins, 0.99, max_abs),
        p999_abs=_percentile(total.histogram, total.bins, 0.999, max_abs),
        max_ulp=int(max_ulp) if has_ulp else None, max_ulp_at=at(ulp_place) if has_ulp else None,
        p99_ulp=None if p99_ulp is None else int(p99_ulp),
        rel_l2=_rel_l2(sums[4], sums[2]), cosine=_cosine(sums[3], sums[1], sums[2]),
        nan_a=special[0], nan_b=special[1], posinf_a=special[2], posinf_b=special[3],
        neginf_a=special[4], neginf_b=special[5], specials_apart=count("special_apart"),
        first=tuple(found for found in map(at, firsts) if found is not None), verdicts=tuple(verdicts),
    )  # fmt: skip


def _sum(values: Iterable[float]) -> float:
    """The exact sum, rounded once; infinite or NaN where it, or one of them, is beyond float64."""
    listed = list(values)
    try:
        return math.fsum(listed)
    except (OverflowError, ValueError):  # where adding them one by one gives infinity, or infinity less infinity
        return sum(listed)


def _rel_l2(difference: float, reference: float) -> float | None:
    """||a-b|| / ||b||; 0/0 is 0, x/0 is infinite, and None where a square overflows float64."""
    if difference == 0:
        return 0.0
    if not (math.isfinite(difference) and math.isfinite(reference)):
        return None
    return math.sqrt(difference) / math.sqrt(reference) if reference else math.inf


def _cosine(product: float, left: float, right: float) -> float | None:
    """a.b / (||a|| ||b||); None where either is zero or a square overflows float64."""
    if not (left > 0 and right > 0 and all(map(math.isfinite, (product, left, right)))):
        return None
    return max(-1.0, min(1.0, product / (math.sqrt(left) * math.sqrt(right))))
