"""The comparison passes in plain NumPy: for tensors too small to be worth a compiler's start, and for rare dtypes.

`harness.tensors.kernels.blocks` computes the same numbers; a test holds the two against each other and against a slow
reference.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.tensors.dtypes import DTYPES, Array, Float64s, decode, judged
from harness.tensors.histograms import ULP_BINS, Bins, bins_for
from harness.tensors.mapped import give_back, is_large
from harness.tensors.tensor import Tensor
from harness.tensors.threads import Found, in_threads

KEPT = 5
"""How many of the first mismatches are kept."""
HAS_ULP = ("float16", "bfloat16", "float32", "float64")
"""Dtypes whose distances are counted in units in the last place."""


@dataclass(frozen=True)
class How:
    """How a pair of tensors is gone through: what a result says does not depend on it.

    `threads` is how many a big tensor may take, all cores unless told; no number changes with it. Compiled kernels are
    used from `compiled_from` elements on: importing numba costs as much as comparing these in NumPy. A thread takes
    `chunk` elements at a time, and plain NumPy `numpy_chunk`, whose work arrays fit the second-level cache.
    `converts_half` is whether the processor converts float16; it is asked unless told. `pairs` is whether `one_byte`
    will be asked how often each pair of bytes occurs: then metrics are computed from that, too.
    """

    threads: int | None = None
    compiled_from: int = 8_000_000
    chunk: int = 1 << 22
    numpy_chunk: int = 1 << 15
    converts_half: bool | None = None
    pairs: bool = False


USUAL = How()
_INTS = 8  # of integers, as many such chunks at a time: what differs in them is seldom much


def each_chunk(
    x: Array, y: Array, size: int, look: Callable[[Array, Array, int], Found], threads: int | None = 1
) -> Iterator[Found]:
    """What `look(p, q, start)` returns of each chunk of two flat arrays, in the chunks' order.

    Mapped pages of large arrays are given back after. The first exception ends it.
    """

    def one(start: int) -> Found:
        p, q = x[start : start + size], y[start : start + size]
        found = look(p, q, start)
        if is_large(x):
            give_back(p, q)
        return found

    return in_threads(one, range(0, x.size, size), threads)


@dataclass
class Partial:
    """What one chunk contributes; indices are flat and count from the start of the tensor."""

    finite: int = 0
    differ: int = 0  # finite pairs with different values
    against_zero: int = 0  # of those, the ones whose reference is zero
    bits_apart: bool = False
    special: list[int] = field(default_factory=lambda: [0] * 6)  # NaN a, b; +inf a, b; -inf a, b
    special_apart: int = 0  # places where the two sides are not the same NaN, +inf, -inf or finite
    special_differ: int = 0  # pairs that are not both finite and not equal; NaN never is
    sums: tuple[float, ...] = (0.0,) * 5  # |a-b|, aa, bb, ab, (a-b)(a-b)
    max_abs: tuple[float, int] = (0.0, -1)
    max_rel: tuple[float, int] = (0.0, -1)  # over references that are not zero
    max_ulp: tuple[int, int] = (0, -1)
    ratios: list[tuple[float, int]] = field(default_factory=list)  # per rule, greatest (|a-b| - atol) / |b|
    failed: list[bool] = field(default_factory=list)  # per rule, whether torch.allclose says no
    firsts: list[int] = field(default_factory=list)


@dataclass
class Total:
    """Chunks' partial results put together in the chunks' order."""

    bins: Bins
    histogram: Array
    ulps: Array
    parts: list[Partial] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def new_total(dtype: str) -> Total:
    """A total of nothing yet."""
    bins = bins_for(dtype)
    return Total(bins, np.zeros(bins.size, np.int64), np.zeros(ULP_BINS.size, np.int64))


Rule = tuple[float, float]
"""atol and rtol."""


def _rounded(values: Array, dtype: str) -> Array:
    """Sizes of float32 numbers, rounded to nearest even float16 or bfloat16, as float32; what is not finite stays.

    NumPy's own conversion to float16 raises a processor flag for each subnormal, which costs a hundred times more.
    """
    size = np.abs(values)
    drop = 13 if dtype == "float16" else 16  # bits of float32's mantissa that the format lacks
    bits = size.view(np.uint32)
    up = np.uint32((1 << (drop - 1)) - 1) + ((bits >> drop) & np.uint32(1))
    rounded = ((bits + up) & np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)).view(np.float32)
    if dtype == "float16":
        # Below 2**-14 the spacing is 2**-24, that of float32 numbers between 0.5 and 1; from 65520 on it is infinity.
        rounded = np.where(size < 2.0**-14, (size + np.float32(0.5)) - np.float32(0.5), rounded)
        rounded = np.where(rounded >= 65536.0, np.float32(np.inf), rounded)
    return np.where(np.isfinite(size), rounded, size)


def in_dtype(atol: float, dtype: str) -> float:
    """The atol that torch adds: rounded to the dtype first."""
    if dtype == "float64":
        return atol
    with np.errstate(over="ignore"):
        value = np.array([atol], np.float32)
    return float(_rounded(value, dtype)[0] if dtype in ("float16", "bfloat16") else value[0])


def _modulus(values: Array) -> Array:
    """Absolute values; of complex numbers by `hypot`, as torch takes them. NumPy's own `abs` is off by a rounding."""
    return np.hypot(values.real, values.imag) if values.dtype.kind == "c" else np.abs(values)


def not_close(a: Array, b: Array, dtype: str, rule: Rule) -> Array:
    """Where `torch.isclose(a, b, rtol, atol)` is False, computed as torch computes it on the CPU.

    ATen evaluates `a == b or (isfinite(|a-b|) and |a-b| <= atol + |rtol * b|)` operator by operator in the tensors' own
    dtype (aten/src/ATen/native/TensorCompare.cpp). An operator on a 16-bit float computes in float32 and rounds; the
    product takes rtol as a float32, while the sum takes atol rounded to 16 bits, which makes 1e-8 a zero in float16
    (cpu/BinaryOpsKernel.cpp; found by asking torch 2.7.1 and 2.8.0 about all 65,536 values).

    Args:
        a: elements as in `Tensor.data`, float16, bfloat16, float32, float64, complex64 or complex128.
        b: the reference.
        dtype: torch's name.
        rule: atol and rtol.
    """
    atol, rtol = rule
    with np.errstate(all="ignore"):
        if dtype in ("float16", "bfloat16"):
            x, y = (decode(side, dtype).astype(np.float32) for side in (a, b))
            allowed = _rounded(_rounded(y * np.float32(rtol), dtype) + np.float32(in_dtype(atol, dtype)), dtype)
            actual = _rounded(x - y, dtype)
        else:
            real = np.float32 if dtype in ("float32", "complex64") else np.float64
            x, y = a, b
            allowed = _modulus(y * real(rtol)) + real(atol)
            actual = _modulus(x - y)
        result: Array = ~((x == y) | (np.isfinite(actual) & (actual <= allowed)))
    return result


def ulp_distance(a: Array, b: Array, dtype: str) -> Array:
    """How many representable numbers lie between two finite floats, as uint64; +0 and -0 are the same number.

    Maps the bits to integers that sort like the numbers (Bruce Dawson, "Comparing floating point numbers").
    """
    width = DTYPES[dtype].itemsize * 8
    ordered = []
    for side in (a, b):
        bits = side.view(f"<i{width // 8}").astype(np.int64)
        magnitude = bits & np.int64((1 << (width - 1)) - 1)
        ordered.append(np.where(bits < 0, -magnitude, magnitude))
    x, y = ordered
    # The difference of two int64 may need 64 bits, so it is taken as unsigned, the greater minus the smaller.
    return np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)


def _greatest(values: Float64s, start: int) -> tuple[float, int]:
    """The greatest value and its first place; nothing above zero gives (0, -1)."""
    if values.size == 0:
        return 0.0, -1
    place = int(np.argmax(values))
    return (float(values[place]), start + place) if values[place] > 0 else (0.0, -1)


def run(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How) -> Total:
    """Compare tensors of any dtype of two bytes and more, one chunk after the other."""
    total = new_total(a.dtype)
    look, size = (_int_chunk, _INTS * how.numpy_chunk) if DTYPES[a.dtype].kind == "int" else (_chunk, how.numpy_chunk)
    total.parts = list(
        each_chunk(a.flat, b.flat, size, lambda p, q, start: look(p, q, a.dtype, start, rules, total), how.threads)
    )
    return total


def _int_chunk(a: Array, b: Array, dtype: str, start: int, rules: Sequence[Rule], total: Total) -> Partial:
    """As `_chunk`, of integers: where few differ these are all that is looked at, and squares of the rest are added."""
    found, square, strip = [], 0.0, -(-a.size // _INTS)
    for begin in range(0, a.size, strip):
        p, q = a[begin : begin + strip], b[begin : begin + strip]
        apart = (p != q).nonzero()[0]
        if apart.size * 4 > p.size:
            return _chunk(a, b, dtype, start, rules, total)
        rest = decode(p, dtype)
        rest[apart] = 0.0
        square += float(np.square(rest, out=rest).sum())
        found.append(begin + apart)
    places = np.concatenate(found)
    result = _chunk(a[places], b[places], dtype, 0, rules, total)
    for name in ("max_abs", "max_rel"):
        value, place = getattr(result, name)
        setattr(result, name, (value, start + int(places[place]) if place >= 0 else -1))
    result.firsts = [start + int(places[place]) for place in result.firsts]
    result.finite += a.size - places.size
    total_abs, aa, bb, ab, dd = result.sums
    result.sums = total_abs, aa + square, bb + square, ab + square, dd
    with total.lock:
        total.histogram[0] += a.size - places.size
    return result


def _chunk(a: Array, b: Array, dtype: str, start: int, rules: Sequence[Rule], total: Total) -> Partial:
    """Compare one chunk (float64 work arrays of its size), and add to the total's histograms."""
    with np.errstate(all="ignore"):
        x, y = decode(a, dtype), decode(b, dtype)
        difference = np.abs(x - y)
        if dtype in ("int64", "uint64"):
            difference = np.where(a < b, b - a, a - b).view(np.uint64).astype(np.float64)
        result, unequal, difference = reduced(x, y, difference, rules, lambda values: _greatest(values, start))
        raw = f"<u{a.itemsize}" if a.itemsize <= 8 else "<u8"
        result.bits_apart = bool(np.any(a.view(raw) != b.view(raw)))
        result.firsts = [start + int(place) for place in np.flatnonzero(unequal)[:KEPT]]
        finite = np.isfinite(x) & np.isfinite(y)
        bins = np.bincount(total.bins.of(difference[finite]), minlength=total.bins.size)
        with total.lock:
            total.histogram += bins
        if dtype in HAS_ULP:
            distance = ulp_distance(a, b, dtype)
            distance[~finite] = 0
            place = int(np.argmax(distance)) if distance.size else 0
            if distance.size and distance[place]:
                result.max_ulp = int(distance[place]), start + place
            ulps = np.bincount(ULP_BINS.of(distance[finite].astype(np.float64)), minlength=ULP_BINS.size)
            with total.lock:
                total.ulps += ulps
        result.failed = [judged(dtype) and bool(not_close(a, b, dtype, rule).any()) for rule in rules]
    return result


def reduced(
    x: Array,
    y: Array,
    difference: Array,
    rules: Sequence[Rule],
    greatest: Callable[[Float64s], tuple[float, int]],
    weights: Array | None = None,
) -> tuple[Partial, Array, Float64s]:
    """What pairs of numbers add to the metrics that need no bits, of which each counts `weights` times, else once.

    Args:
        x: one side, float64 or complex128.
        y: the reference.
        difference: |x-y|, whatever stands where they are not finite.
        rules: atol and rtol to judge by; empty for integers.
        greatest: the greatest of some values, one a pair, and its place; (0, -1) where none is above zero.
        weights: how often each pair occurs.

    Returns:
        The numbers, where the sides differ, and the differences with zeros where they are not finite.
    """

    def count(mask: Array) -> int:
        return int(np.count_nonzero(mask) if weights is None else weights[mask].sum())

    finite = np.isfinite(x) & np.isfinite(y)
    result = Partial(finite=count(finite))
    unequal = (difference != 0) & finite
    if not (everywhere := bool(finite.all())):
        classes = []
        for side, values in enumerate((x, y)):
            nan = np.isnan(values)
            up = ~nan & (values == math.inf) if values.dtype.kind != "c" else ~nan & ~np.isfinite(values)
            down = ~nan & ~up & (values == -math.inf)
            result.special[side::2] = [count(mask) for mask in (nan, up, down)]
            classes.append(nan * 1 + up * 2 + down * 3)
        result.special_apart = count(classes[0] != classes[1])
        special = ~finite & ~(x == y)
        result.special_differ = count(special)
        unequal |= special
        difference = np.where(finite, difference, 0.0)
    reference = np.abs(y) if everywhere else np.where(finite, np.abs(y), 0.0)
    result.differ = count(unequal) - result.special_differ
    result.against_zero = count((difference > 0) & (reference == 0))
    # Numbers that are finite everywhere are not copied: of bytes there are 65,536 pairs in each chunk of an index.
    p, q, d = (side if everywhere else side[finite] for side in (x, y, difference))
    m, n = (side.conj() if side.dtype.kind == "c" else side for side in (p, q))
    times = weights if weights is None or everywhere else weights[finite]
    result.sums = tuple(
        float(term.sum() if times is None else (term * times).sum())
        for term in (d, (p * m).real, (q * n).real, (p * n).real, d * d)
    )
    result.max_abs = greatest(difference)
    relative = np.divide(difference, reference, out=np.zeros_like(difference), where=reference > 0)
    result.max_rel = greatest(relative)
    for atol, _ in rules:
        excess = difference - atol
        needed = np.divide(excess, reference, out=np.zeros_like(excess), where=reference > 0)
        needed[(reference == 0) & (excess > 0)] = math.inf
        result.ratios.append(greatest(needed))
    return result, unequal, difference


def pairs(a: Array, b: Array) -> Array:
    """How often each of the 65,536 pairs occurs in two uint8 arrays, shape (256, 256), int64."""
    return np.bincount((a.astype(np.uint16) << 8) | b, minlength=65536).astype(np.int64, copy=False).reshape(256, 256)
