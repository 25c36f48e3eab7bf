"""Every metric of a pair of tensors in one pass over both, with bounded memory; docs/comparing.md explains them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.tensors import alike, compiled, one_byte, passes
from harness.tensors.dtypes import DTYPES, Array, decode, judged
from harness.tensors.histograms import SHARES, ULP_BINS, ULP_SHARES, Bins, place_of
from harness.tensors.mapped import keep_memory
from harness.tensors.passes import HAS_ULP, KEPT, USUAL, How, Rule, Total
from harness.tensors.profiles import BUILTIN, Profile, ProfileVerdict
from harness.tensors.tensor import Tensor

_FORMATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}
"""Stored bits of the fraction, and the exponent of the smallest normal number (IEEE 754, tables 3.5 and 3.6)."""


@dataclass(frozen=True)
class Mismatch:
    """One place at which something was found, such as a difference, and what each side holds there.

    `index` is along the tensor's axes, () for a scalar. `a` and `b` are exact: no dtype holds more than these types.
    """

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
    max_abs_ulp: float | None  # `max_abs` as `steps_at` counts it
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
    verdicts: tuple[ProfileVerdict, ...]

    @property
    def value_equal(self) -> bool:
        """Whether a == b everywhere."""
        return self.n_mismatch == 0


def engine(dtype: str, n: int, how: How) -> Callable[[Tensor, Tensor, Sequence[Rule], How], Total]:
    """What goes through a pair of tensors of `n` elements: `run` of one of three modules."""
    kind = DTYPES[dtype]
    if kind.itemsize == 1 and (kind.kind != "int" or how.pairs or not compiled.usable(dtype, n, how)):
        return one_byte.run
    return compiled.run if kind.kind in ("float", "int") and compiled.usable(dtype, n, how) else passes.run


def measure(a: Tensor, b: Tensor, profiles: Sequence[Profile] = BUILTIN, how: How = USUAL) -> Metrics:
    """Compare two tensors of equal shape and dtype; B is the reference of every relative number.

    Args:
        a: one side; mapped tensors are streamed, and their pages given back as they are done with.
        b: the reference.
        profiles: tolerances to judge by, any number in the one pass.
        how: threads, sizes of chunks, and what computes; the result does not depend on it.

    Raises:
        ValueError: shapes or dtypes differ, which the caller reports before it asks for values.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot measure {a.dtype} {a.shape} against {b.dtype} {b.shape}")
    keep_memory()
    floating = DTYPES[a.dtype].kind in ("float", "complex")
    rules = [profile.rule(a.dtype) for profile in profiles] if floating else []
    total = alike.run(a, b, rules, how) or engine(a.dtype, a.n, how)(a, b, rules, how)
    return _finish(a, b, total, profiles, rules)


def steps_at(dtype: str | None, values: Sequence[Any] | None) -> float | None:
    """How far apart two numbers are in steps between neighbouring floats at the larger of them.

    Args:
        dtype: of both; None is returned for what is no float.
        values: the two, as they stand in a table: finite, or else there is no answer.
    """
    if dtype not in _FORMATS or values is None:
        return None
    a, b = (float(value) for value in values)
    if not (math.isfinite(a) and math.isfinite(b)):
        return None
    fraction, smallest = _FORMATS[dtype]
    exponent = max(math.frexp(max(abs(a), abs(b)))[1] - 1, smallest)
    return abs(a - b) / 2.0 ** (exponent - fraction)


def _best(candidates: Iterable[tuple[Any, int]]) -> tuple[Any, int]:
    """The greatest value above zero, and the first place that has it; (0, -1) where there is none."""
    return max([(0, -1), *candidates], key=lambda one: one[0])


def _percentiles(histogram: Array, bins: Bins, shares: Iterable[float], top: float) -> list[float | None]:
    """The lower edge of each percentile's bin; the greatest number where that is less."""
    places = [place_of(histogram, share) for share in shares]
    return [None if place is None else min(bins.edge(place), top) for place in places]


def element(tensor: Tensor, place: int) -> float | int | complex:
    """One element as a Python number."""
    raw = tensor.flat[place : place + 1]
    if DTYPES[tensor.dtype].kind in ("int", "bool"):
        return int(raw[0])
    number = decode(raw, tensor.dtype)[0]
    return complex(number) if DTYPES[tensor.dtype].kind == "complex" else float(number)


def _finish(a: Tensor, b: Tensor, total: Total, profiles: Sequence[Profile], rules: Sequence[Rule]) -> Metrics:
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
    has_ulp = a.dtype in HAS_ULP
    mismatches = count("differ") + special_differ
    verdicts = []
    for k, profile in enumerate(profiles):
        if not rules:
            verdicts.append(ProfileVerdict(profile.name, 0.0, 0.0, mismatches == 0))
            continue
        atol, rtol = rules[k]
        needed, place = _best(part.ratios[k] for part in parts)
        where = at(place)
        close = not any(part.failed[k] for part in parts) if judged(a.dtype) else None
        least = math.inf if special_differ else float(needed)
        verdicts.append(ProfileVerdict(profile.name, atol, rtol, close, least, where.index if where else None))
    firsts = [place for part in parts for place in part.firsts][:KEPT]
    special = [sum(part.special[k] for part in parts) for k in range(6)]
    p50_abs, p99_abs, p999_abs = _percentiles(total.histogram, total.bins, SHARES, max_abs)
    (p99_ulp,) = _percentiles(total.ulps, ULP_BINS, ULP_SHARES, max_ulp) if has_ulp else [None]
    return Metrics(
        n=a.n, n_mismatch=mismatches, bit_equal=not any(part.bits_apart for part in parts), n_finite=finite,
        max_abs=float(max_abs), max_abs_at=(furthest := at(abs_place)),
        max_abs_ulp=steps_at(a.dtype, (furthest.a, furthest.b) if furthest else None),
        mean_abs=sums[0] / finite if finite else None,
        max_rel=math.inf if against_zero else float(max_rel), max_rel_at=at(rel_place), n_rel_inf=against_zero,
        p50_abs=p50_abs, p99_abs=p99_abs, p999_abs=p999_abs,
        max_ulp=int(max_ulp) if has_ulp else None, max_ulp_at=at(ulp_place) if has_ulp else None,
        p99_ulp=None if p99_ulp is None else int(p99_ulp),
        rel_l2=_rel_l2(sums[4], sums[2]), cosine=_cosine(sums[3], sums[1], sums[2]),
        nan_a=special[0], nan_b=special[1], posinf_a=special[2], posinf_b=special[3],
        neginf_a=special[4], neginf_b=special[5], specials_apart=count("special_apart"),
        first=tuple(found for found in map(at, firsts) if found is not None), verdicts=tuple(verdicts),
    )  # fmt: skip


def _sum(parts: Iterable[float]) -> float:
    """The exact sum, rounded once; infinite or NaN where it, or one of them, is beyond float64."""
    listed = list(parts)
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
