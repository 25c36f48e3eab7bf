"""The metrics against torch, against a slow reference, and against each trap that comparers are known to fall into."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.tensors import compiled, passes
from harness.tensors.dtypes import DTYPES, Array, byte_values, count_nan, decode
from harness.tensors.histograms import ABS_BINS, ULP_BINS
from harness.tensors.metrics import Metrics, engine, measure, steps_at
from harness.tensors.passes import How, not_close, ulp_distance
from harness.tensors.profiles import BNB, BUILTIN, DEFAULT, Profile
from harness.tensors.tensor import Tensor
from tests.support.torch_oracle import TorchOracle

BUSY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTS = ("uint8", "int8", "int16", "int32", "int64", "bool")
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@pytest.fixture(scope="module")
def oracle(torch_interpreter: Path) -> Iterator[TorchOracle]:
    process = TorchOracle(torch_interpreter)
    yield process
    process.close()


COMPILED, NUMPY = How(compiled_from=0), How(compiled_from=1 << 60)


@pytest.fixture(params=[COMPILED, NUMPY], ids=["compiled", "numpy"])
def how(request: pytest.FixtureRequest) -> How:
    """Both implementations, on tensors of any size."""
    found: How = request.param
    return found


def bits_tensor(bits: list[int], dtype: str, shape: tuple[int, ...] | None = None) -> Tensor:
    size = DTYPES[dtype].itemsize
    array = np.array([value % (1 << (8 * size)) for value in bits], _UINT[size])
    if dtype == "bool":
        array &= 1
    return Tensor.of(array.view(DTYPES[dtype].storage).reshape(shape or (len(bits),)), dtype)


def interesting(dtype: str) -> list[int]:
    """Bit patterns at which comparers break: zeros, subnormals, the greatest, infinities, NaNs, and ones next to 1."""
    if dtype == "float64":
        low, one, inf, sign = 1, 0x3FF0 << 48, 0x7FF0 << 48, 1 << 63
    elif dtype == "float32":
        low, one, inf, sign = 1, 0x3F800000, 0x7F800000, 1 << 31
    elif dtype == "bfloat16":
        low, one, inf, sign = 1, 0x3F80, 0x7F80, 1 << 15
    else:
        low, one, inf, sign = 1, 0x3C00, 0x7C00, 1 << 15
    plain = [0, low, low + 1, 0x80, 0x3FF, 0x400, one - 1, one, one + 1, one + 2, inf - 1, inf, inf + 1]
    return plain + [value | sign for value in plain]


@st.composite
def pairs(draw: st.DrawFn, dtypes: tuple[str, ...] = FLOATS) -> tuple[Tensor, Tensor]:
    """Two tensors of one dtype and shape, most elements near each other, some special, some far."""
    dtype = draw(st.sampled_from(dtypes))
    width = 8 * DTYPES[dtype].itemsize
    n = draw(st.integers(0, 24))
    word = st.integers(0, (1 << width) - 1)
    one = st.one_of(st.sampled_from(interesting(dtype)), word) if dtype in FLOATS else word
    # A few steps of one unit, or steps whose size is near the tolerances: 2**-k of the number for k around 7 to 17.
    step = st.one_of(
        st.just(0), st.integers(-3, 3), st.integers(-200, 200), st.integers(0, width - 1).map(lambda k: 1 << k)
    )
    left, right = [], []
    for _ in range(n):
        value = draw(one)
        left.append(value)
        right.append(draw(one) if draw(st.integers(0, 9)) == 0 else value + draw(step))
    shape = draw(st.sampled_from([(n,), (n, 1), (1, n)]))
    return bits_tensor(left, dtype, shape), bits_tensor(right, dtype, shape)


# Borderline rules beside the two profiles: each lies near a power of two that a rounding may cross.
EXTRA = [(0.0, 0.0), (0.0, 2.0**-10), (6e-8, 0.0), (1e-3, 1e-2), (0.5, 0.0), (1e-6, 1e-5), (0.0, 1e-3), (1.0, 1.0)]


@settings(max_examples=600, deadline=None, suppress_health_check=BUSY)
@given(pair=pairs(FLOATS + INTS))
def test_verdicts_are_torchs(how: How, oracle: TorchOracle, pair: tuple[Tensor, Tensor]) -> None:
    """Every verdict equals `torch.allclose`'s, over dtypes, NaN, infinities, signed zeros and subnormals."""
    a, b = pair
    profiles = [*BUILTIN, *(Profile(f"p{k}", rule) for k, rule in enumerate(EXTRA))]
    expected = oracle.allclose(a, b, [profile.rule(a.dtype) for profile in profiles])

    assert expected == [verdict.close for verdict in measure(a, b, profiles, how=how).verdicts]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rule", [(1e-8, 1e-5), (1e-4, 1e-3), (1e-3, 1e-2), (1e-7, 0.3)])
def test_every_reference_at_its_threshold(oracle: TorchOracle, dtype: str, rule: tuple[float, float]) -> None:
    """For each of the 65,536 values of B, the nearest A's around the tolerance: element by element as torch says."""
    b = np.arange(65536, dtype=np.uint16)
    rng = np.random.default_rng(0)
    atol, rtol = rule
    profile = Profile("p", rule)
    with np.errstate(all="ignore"):
        wide = decode(b.view(DTYPES[dtype].storage), dtype)
        moved = wide + (atol + rtol * np.abs(wide)) * rng.choice([-1, 1], b.size)
        a32 = moved.astype(np.float32)
        near = (
            (a32.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else a32.astype(np.float16).view("<u2")
        )
    for offset in (-1, 0, 1):
        a = (near + np.uint16(offset % 65536)).view(DTYPES[dtype].storage)
        ours = not_close(a, b.view(DTYPES[dtype].storage), dtype, rule)
        # torch answers for all elements at once, so ask about those we call close, and about samples of the others.
        close = np.flatnonzero(~ours)
        left = Tensor.of(a[close], dtype)
        right = Tensor.of(b.view(DTYPES[dtype].storage)[close], dtype)
        assert oracle.allclose(left, right, [rule]) == [True]
        assert measure(left, right, [profile]).verdicts[0].close
        for place in rng.choice(np.flatnonzero(ours), 300):
            one, other = (Tensor.of(side[place : place + 1], dtype) for side in (a, b.view(DTYPES[dtype].storage)))
            assert oracle.allclose(one, other, [rule]) == [False]


def reference(a: Tensor, b: Tensor, profiles: tuple[Profile, ...] = BUILTIN) -> dict[str, object]:
    """Every metric, slowly: one element at a time, or sorts of float64 arrays."""
    floating = DTYPES[a.dtype].kind == "float"
    x, y = (decode(side.flat, a.dtype) if a.dtype != "bool" else side.flat.astype(float) for side in (a, b))
    if a.dtype == "int64":
        d = np.array([float(abs(int(p) - int(q))) for p, q in zip(a.flat, b.flat, strict=True)])
    else:
        with np.errstate(all="ignore"):
            d = np.abs(x - y)
    finite = np.isfinite(x) & np.isfinite(y)
    unequal = [bool(p != q) for p, q in zip(a.flat, b.flat, strict=True)] if a.dtype == "int64" else list(x != y)
    d_finite, y_finite = d[finite], np.abs(y[finite])
    relative = [0.0 if p == 0 else math.inf if q == 0 else p / q for p, q in zip(d_finite, y_finite, strict=True)]

    def percentile(values: Array, share: float, bins: object) -> float | None:
        if values.size == 0:
            return None
        rank = max(math.ceil(share * values.size), 1)
        exact = float(np.sort(values)[rank - 1])
        assert hasattr(bins, "of")
        assert hasattr(bins, "edge")
        return float(bins.edge(int(bins.of(np.array([exact]))[0])))

    ulps = ulp_distance(a.flat[finite], b.flat[finite], a.dtype).astype(float) if floating else np.empty(0)
    names: dict[str, Any] = {"nan": np.isnan, "posinf": lambda v: v == math.inf, "neginf": lambda v: v == -math.inf}
    counts = {
        f"{name}_{side}": int(np.sum(test(v))) for name, test in names.items() for side, v in (("a", x), ("b", y))
    }
    kinds = [[np.isnan(v) * 1 + (v == math.inf) * 2 + (v == -math.inf) * 3][0] for v in (x, y)]
    bins = ABS_BINS[a.dtype if floating else "int"]
    norm_a, norm_b = (math.sqrt(math.fsum(v[finite] ** 2)) for v in (x, y))
    return counts | {
        "n": a.n,
        "n_mismatch": sum(unequal),
        "bit_equal": bytes(a.buffer()) == bytes(b.buffer()),
        "n_finite": int(finite.sum()),
        "max_abs": float(max(d_finite, default=0.0)),
        "mean_abs": math.fsum(d_finite) / d_finite.size if d_finite.size else None,
        "max_rel": float(max(relative, default=0.0)),
        "n_rel_inf": sum(math.isinf(value) for value in relative),
        "p50_abs": percentile(d_finite, 0.5, bins),
        "p99_abs": percentile(d_finite, 0.99, bins),
        "p999_abs": percentile(d_finite, 0.999, bins),
        "max_ulp": int(max(ulps, default=0)) if floating else None,
        "p99_ulp": percentile(ulps, 0.99, ULP_BINS) if floating else None,
        "specials_apart": int(np.sum(kinds[0] != kinds[1])),
        "rel_l2": 0.0 if not d_finite.any() else math.sqrt(math.fsum(d_finite**2)) / norm_b if norm_b else math.inf,
        "cosine": math.fsum(x[finite] * y[finite]) / (norm_a * norm_b) if norm_a and norm_b else None,
        "first": [k for k, flag in enumerate(unequal) if flag][:5],
        "min_rtol": [
            _needed(d_finite, y_finite, profile.rule(a.dtype)[0], sum(unequal), finite, unequal) for profile in profiles
        ]
        if floating
        else [None] * len(profiles),
    }


def _needed(d: Array, y: Array, atol: float, _: int, finite: Array, unequal: list[bool]) -> float:
    if any(flag and not ok for flag, ok in zip(unequal, finite, strict=True)):
        return math.inf
    return max(
        (0.0 if p <= atol else math.inf if q == 0 else (p - atol) / q for p, q in zip(d, y, strict=True)), default=0.0
    )


def check(found: Metrics, a: Tensor, b: Tensor) -> None:
    expected = reference(a, b)
    first = expected.pop("first")
    needed = expected.pop("min_rtol")
    for name, value in expected.items():
        actual = getattr(found, name)
        if name in ("mean_abs", "rel_l2", "cosine") and isinstance(value, float) and isinstance(actual, float):
            assert actual == pytest.approx(value, rel=1e-12, abs=1e-300 if name == "mean_abs" else 1e-13), name
        else:
            assert value == actual, name
    flat = [int(np.ravel_multi_index(mismatch.index, a.shape)) if a.shape else 0 for mismatch in found.first]
    assert first == flat
    assert needed == [verdict.min_rtol for verdict in found.verdicts]


@settings(max_examples=400, deadline=None, suppress_health_check=BUSY)
@given(pair=pairs(("float16", "bfloat16", "float32", *INTS)))
@example(pair=(bits_tensor([0, 0x8000], "float16"), bits_tensor([0x8000, 1], "float16")))
def test_metrics_equal_the_slow_reference(how: How, pair: tuple[Tensor, Tensor]) -> None:
    """One pass gives what an element-by-element float64 computation gives."""
    check(measure(*pair, how=how), *pair)


def typical(dtype: str, n: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random tensors of which a share differs by a few units in the last place."""
    rng = np.random.default_rng(seed)
    if dtype in FLOATS:
        values = rng.standard_normal(n).astype(np.float32)
        if dtype == "bfloat16":
            left = (values.view(np.uint32) >> 16).astype(np.uint16)
        else:
            left = values.astype(dtype).view(_UINT[DTYPES[dtype].itemsize])
    else:
        left = rng.integers(0, 2 if dtype == "bool" else 120, n).astype(_UINT[DTYPES[dtype].itemsize])
    right = left.copy()
    moved = rng.random(n) < share
    if dtype == "bool":
        right[moved] ^= 1
    else:
        right[moved] += rng.integers(0, 7, int(moved.sum())).astype(right.dtype)
    return _wrap(left, dtype), _wrap(right, dtype)


def _wrap(bits: Array, dtype: str) -> Tensor:
    return Tensor.of((bits & 1 if dtype == "bool" else bits).view(DTYPES[dtype].storage), dtype)


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTS])
def test_blocks_and_chunks_add_up(how: How, dtype: str, share: float) -> None:
    """Tensors of several blocks and chunks, with special values scattered in, agree with the slow reference."""
    a, b = typical(dtype, 9001, share)
    if dtype in FLOATS and share:
        bits = b.data.view(_UINT[DTYPES[dtype].itemsize]).copy()
        bits[[17, 4099, 8999]] = [interesting(dtype)[k] for k in (-2, -1, 11)]
        bits[5000] = interesting(dtype)[12]
        b = Tensor.of(bits.view(DTYPES[dtype].storage), dtype)
    check(measure(a, b, how=replace(how, chunk=4096, numpy_chunk=1000)), a, b)


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_percentiles_do_not_depend_on_what_is_skipped(dtype: str, order: str) -> None:
    """Distances too small to be the 99th percentile are not counted one by one, and the percentile stays exact."""
    rng = np.random.default_rng(3)
    n = 40_000
    steps = np.sort((2.0 ** rng.uniform(0, 7, n)).astype(np.int64))
    steps = {"rising": steps, "falling": steps[::-1], "mixed": rng.permutation(steps)}[order]
    kind = _UINT[DTYPES[dtype].itemsize]
    bits = np.full(n, interesting(dtype)[6], kind)
    a, b = _wrap(bits, dtype), _wrap(bits + steps.astype(kind), dtype)
    found = measure(a, b, how=replace(COMPILED, chunk=1024))

    assert int(np.sort(steps)[math.ceil(0.99 * n) - 1]) == found.p99_ulp
    check(found, a, b)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "uint8"])
def test_threads_do_not_change_a_number(dtype: str) -> None:
    """The result is the same, to the last bit, whatever the number of threads."""
    a, b = typical(dtype, 60_000, 0.5)
    expected, *others = (measure(a, b, how=replace(COMPILED, chunk=4096, threads=k)) for k in (1, 2, 3, 8))

    assert [expected] * 3 == others


def test_old_processors_take_numpy_for_half() -> None:
    """Where the processor cannot convert float16, compiled code would end the process, so none is used."""
    old = replace(COMPILED, converts_half=False)

    assert [passes.run, compiled.run] == [engine(dtype, 100, old) for dtype in ("float16", "float32")]
    assert measure(*typical("float16", 100, 0.5), how=old).n == 100


def test_the_reference_is_b(how: How) -> None:
    """`isclose` is asymmetric: the tolerance grows with |b|, not with |a|."""
    profile = [Profile("p", (0.0, 0.1))]
    small, big = Tensor.of(np.array([1.0], np.float32)), Tensor.of(np.array([1.105], np.float32))

    assert measure(small, big, profile, how=how).verdicts[0].close
    assert not measure(big, small, profile, how=how).verdicts[0].close
    assert measure(big, small, how=how).max_rel == pytest.approx(0.105, rel=1e-6)


def test_unsigned_subtraction_does_not_wrap(how: How) -> None:
    """0 against 1 in uint8 differs by 1, not by 255."""
    found = measure(Tensor.of(np.array([0, 5], np.uint8)), Tensor.of(np.array([1, 5], np.uint8)), how=how)

    assert (1.0, 1, 0.5) == (found.max_abs, found.n_mismatch, found.mean_abs)


def test_int64_extremes_do_not_overflow(how: How) -> None:
    """The greatest int64 distance needs 64 bits and is reported as such."""
    a, b = (Tensor.of(np.array([value], np.int64)) for value in (-(2**63), 2**63 - 1))

    assert measure(a, b, how=how).max_abs == 2.0**64
    big = 2**60
    assert (
        measure(Tensor.of(np.array([big], np.int64)), Tensor.of(np.array([big + 1], np.int64)), how=how).max_abs == 1.0
    )


def test_signed_zeros_are_equal_values_of_different_bits(how: How) -> None:
    """+0.0 equals -0.0, and the two are not bit-equal."""
    found = measure(Tensor.of(np.array([0.0], np.float16)), Tensor.of(np.array([-0.0], np.float16)), how=how)

    assert found.value_equal
    assert not found.bit_equal
    assert found.max_ulp == 0


def test_nan_equals_nothing_and_hides_nothing(how: How) -> None:
    """A NaN beside a 5 against a 9 is counted, and the 4 between them is still reported."""
    a = Tensor.of(np.array([np.nan, 5.0, np.nan, np.inf, 1.0], np.float32))
    b = Tensor.of(np.array([np.nan, 9.0, 1.0, np.inf, -np.inf], np.float32))
    found = measure(a, b, how=how)

    assert (4, 4.0, False) == (found.n_mismatch, found.max_abs, found.value_equal)
    assert (2, 1, 1, 1, 0, 1) == (
        found.nan_a, found.nan_b, found.posinf_a, found.posinf_b, found.neginf_a, found.neginf_b,
    )  # fmt: skip
    assert found.specials_apart == 2
    assert [verdict.close for verdict in found.verdicts] == [False, False]
    assert [math.inf, math.inf] == [verdict.min_rtol for verdict in found.verdicts]


def test_bit_equal_nan_is_not_value_equal(how: How) -> None:
    """The same NaN on both sides has the same bits, and `torch.allclose` still says no."""
    a = Tensor.of(np.array([np.nan, 1.0], np.float16))
    found = measure(a, a, how=how)

    assert found.bit_equal
    assert not found.value_equal
    assert [verdict.close for verdict in found.verdicts] == [False, False]


def test_float16_difference_that_overflows(how: How) -> None:
    """65504 against -65504: torch's difference is inf, so never close; ours is exact in float64."""
    found = measure(
        Tensor.of(np.array([65504], np.float16)),
        Tensor.of(np.array([-65504], np.float16)),
        [Profile("wide", (1e9, 1e9))],
        how=how,
    )

    assert found.max_abs == 131008.0
    assert not found.verdicts[0].close


def test_zero_references(how: How) -> None:
    """0/0 is a relative error of 0; x/0 is infinite and counted, and does not hide the greatest finite one."""
    a, b = Tensor.of(np.array([0.0, 1.0, 3.0], np.float32)), Tensor.of(np.array([0.0, 0.0, 2.0], np.float32))
    found = measure(a, b, how=how)

    assert (math.inf, 1) == (found.max_rel, found.n_rel_inf)
    assert found.max_rel_at is not None
    assert (2,) == found.max_rel_at.index
    assert found.verdicts[0].min_rtol == math.inf


def test_default_on_float16_is_nearly_equality(how: How) -> None:
    """One unit in the last place of a float16 fails `default` and passes `bnb`."""
    a = Tensor.of(np.array([1.0, 0.125], np.float16))
    b = Tensor.of(np.nextafter(a.data, np.float16(2)))
    found = measure(a, b, how=how)

    assert [False, True] == [verdict.close for verdict in found.verdicts]
    assert found.max_ulp == 1


def test_min_rtol_is_the_least_that_passes(how: How) -> None:
    """Slightly more than `min_rtol` passes at the same atol, slightly less does not."""
    a, b = typical("float32", 5000, 0.5)
    least = measure(a, b, [DEFAULT], how=how).verdicts[0].min_rtol
    assert least is not None
    close = [
        measure(a, b, [Profile("p", (1e-8, least * factor))], how=how).verdicts[0].close for factor in (1.001, 0.999)
    ]

    assert [True, False] == close


def test_empty_and_scalar_tensors(how: How) -> None:
    """No elements are equal to no elements; a scalar's index is empty."""
    empty = Tensor.of(np.empty((0, 4), np.float16))
    found = measure(empty, empty, how=how)
    assert (0, True, True, True) == (found.n, found.bit_equal, found.value_equal, found.verdicts[0].close)
    assert found.p50_abs is None

    scalar = measure(Tensor.of(np.array(1.0, np.float32)), Tensor.of(np.array(2.0, np.float32)), how=how)
    assert scalar.max_abs_at is not None
    assert ((), 1.0, 2.0) == (scalar.max_abs_at.index, scalar.max_abs_at.a, scalar.max_abs_at.b)


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_float8_has_metrics_and_no_verdict(how: How, dtype: str) -> None:
    """torch.allclose raises for float8, so there is no verdict; the numbers are there."""
    a, b = (Tensor.of(np.arange(256, dtype=np.uint8) ^ flip, dtype) for flip in (np.uint8(0), np.uint8(1)))
    found = measure(a, b, how=how)

    assert [None, None] == [verdict.close for verdict in found.verdicts]
    assert found.nan_a == int(np.isnan(byte_values(dtype)).sum())
    assert found.max_abs > 0


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_nans_are_counted_with_the_digest(dtype: str) -> None:
    """One reading gives the digest that is taken alone, and how many elements are NaN, in slices of any size."""
    raw = np.random.default_rng(1).integers(0, 256, 16 * 50).astype(np.uint8)
    raw[16:32] = 0xFF  # every float format calls this NaN, or its greatest number
    if dtype == "bool":
        raw &= 1
    one = Tensor.of(raw.view(DTYPES[dtype].storage).reshape(2, -1), dtype)
    if dtype == "complex32":
        halves = raw.view(np.float16).reshape(-1, 2)
        expected = int(np.isnan(halves).any(axis=1).sum())
    else:
        expected = int(np.isnan(decode(one.flat, dtype) if DTYPES[dtype].kind in ("float", "complex") else 0).sum())

    assert (one.digest(), expected) == one.digest_and_nans(64)
    assert expected == count_nan(one.flat.view(np.uint8), dtype, 32)


def test_complex_verdicts(how: How, oracle: TorchOracle) -> None:
    """Complex tensors are judged like torch does, by the modulus."""
    rng = np.random.default_rng(0)
    a = (rng.standard_normal(8) + 1j * rng.standard_normal(8)).astype(np.complex64)
    for scale in (0.0, 1e-7, 1e-4, np.nan):
        left, right = Tensor.of(a), Tensor.of((a * (1 + scale)).astype(np.complex64))
        rules = [profile.rule("complex64") for profile in BUILTIN]
        assert oracle.allclose(left, right, rules) == [
            verdict.close for verdict in measure(left, right, how=how).verdicts
        ]


def test_complex_numbers_at_their_threshold(oracle: TorchOracle) -> None:
    """A modulus that is off by one rounding would turn some of these verdicts, each a step or two from its limit."""
    rng = np.random.default_rng(5)
    n = 300
    for atol, rtol in ((1e-4, 1e-3), (0.0, 2.0**-10), (1e-8, 1e-5)):
        profile = Profile("p", (atol, rtol))
        b = rng.standard_normal(n) + 1j * rng.standard_normal(n)
        b[: n // 2] *= 1e-42  # subnormal
        b = b.astype(np.complex64)
        radius = (atol + rtol * np.abs(b.astype(complex))) * (1 + rng.integers(-2, 3, n) * 2.0**-23)
        a = (b + radius * np.exp(2j * np.pi * rng.random(n))).astype(np.complex64)
        pairs = [(Tensor.of(a[k : k + 1]), Tensor.of(b[k : k + 1])) for k in range(n)]
        expected = [oracle.allclose(*pair, [profile.rule("complex64")])[0] for pair in pairs]

        assert {True, False} == set(expected)
        assert expected == [measure(*pair, [profile]).verdicts[0].close for pair in pairs]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_sums_beyond_float64(how: How, dtype: str) -> None:
    """Numbers whose squares, or whose sum, no float64 can hold: what has no value is said to have none."""
    how = replace(how, chunk=1024, numpy_chunk=1000)
    signs = np.repeat([1.0, -1.0], 2500)  # one chunk's sum of a times b is +inf, another's -inf
    found = measure(Tensor.of(np.full(5000, 1e200).astype(dtype)), Tensor.of((1e200 * signs).astype(dtype)), how=how)
    assert (2e200, None, None) == (found.max_abs, found.rel_l2, found.cosine)
    assert found.mean_abs == pytest.approx(1e200)

    found = measure(Tensor.of(np.full(5000, 1e305).astype(dtype)), Tensor.of(np.zeros(5000, dtype)), how=how)
    assert (1e305, math.inf, 5000) == (found.max_abs, found.mean_abs, found.n_rel_inf)


def test_unaligned_tensors(how: How) -> None:
    """A tensor that begins at an odd byte of its file is compared like any other."""
    raw = np.zeros(2 * 3000 + 1, np.uint8)
    a = Tensor("float16", (3000,), np.frombuffer(raw.data, "<f2", 3000, 1))
    b = Tensor.of(np.ones(3000, np.float16))

    assert measure(a, b, how=how).max_abs == 1.0
    assert measure(b, a, how=how).n_rel_inf == 3000


@pytest.mark.parametrize("rule", [(-1e-8, 0.0), (math.nan, 0.0), (0.0, math.inf)])
def test_impossible_tolerances_are_refused(rule: tuple[float, float]) -> None:
    """A profile names its bad number in a sentence."""
    with pytest.raises(UsageError, match="Profile 'mine'"):
        Profile("mine", rule)


def test_profiles_of_the_design() -> None:
    """`default` and `bnb` are the reference article's."""
    assert [(1e-8, 1e-5)] * 3 == [DEFAULT.rule(dtype) for dtype in FLOATS[:3]]
    assert [(1e-4, 1e-3), (1e-3, 1e-2), (1e-6, 1e-5), (1e-4, 1e-3)] == [BNB.rule(dtype) for dtype in FLOATS]


@pytest.mark.parametrize("seed", [*range(12), 93])
@pytest.mark.parametrize("dtype", FLOATS)
def test_compiled_equals_numpy_on_any_bits(dtype: str, seed: int) -> None:
    """Both implementations agree on random bits of every kind, in blocks that differ here, there or all over."""
    rng = np.random.default_rng(seed)
    kind = _UINT[DTYPES[dtype].itemsize]
    n = int(rng.integers(1, 6000))
    # All patterns, patterns near one, or small ones, where subnormals and zeros of both signs are.
    top = [(1 << 8 * DTYPES[dtype].itemsize) - 1, interesting(dtype)[7] + 300, 300][seed % 3]
    left = rng.integers(0, top, n, dtype=kind, endpoint=True)
    left ^= (rng.random(n) < 0.3).astype(kind) << kind(8 * DTYPES[dtype].itemsize - 1)
    right = left.copy()
    shares = np.repeat(rng.choice([0.0, 0.01, 0.3, 0.7, 1.0], n // 500 + 1), 500)[:n]
    moved = rng.random(n) < shares
    step = rng.integers(-3, 4, n) if seed % 2 else rng.integers(-(2**14), 2**14, n)
    right[moved] += step[moved].astype(kind)
    if seed % 4 == 3:
        right[rng.random(n) < 0.01] = interesting(dtype)[int(rng.integers(0, 26))]
    a, b = _wrap(left, dtype), _wrap(right, dtype)
    profiles = [*BUILTIN, *(Profile(f"p{k}", rule) for k, rule in enumerate(EXTRA[: seed % 5]))]
    found = [dataclasses.asdict(measure(a, b, profiles, replace(how, chunk=2048))) for how in (COMPILED, NUMPY)]
    for name in ("mean_abs", "rel_l2", "cosine"):
        one, other = (result.pop(name) for result in found)
        assert one == (None if other is None else pytest.approx(other, rel=1e-12, abs=1e-13)), name

    assert repr(found[0]) == repr(found[1])


def test_compiled_code_is_kept_by_what_is_in_the_sources(tmp_path: Path) -> None:
    """An edit in any file beside a kernel's gives another folder, and the folders of other sources are not piled up."""
    from harness.tensors.kernels.compiler import cache_folder

    sources, base = tmp_path / "kernels", tmp_path / "cache"
    sources.mkdir()
    (sources / "kernel.py").write_text("from helper import f")
    helper = sources / "helper.py"
    folders = []
    for k in range(8):
        helper.write_text(f"# {k}")
        os.utime(helper, (1, 1))
        folders.append(cache_folder(base, sources))

    assert len(set(folders)) == 8
    assert folders[-1] == cache_folder(base, sources)
    assert folders[-1] in base.iterdir()
    assert len(list(base.iterdir())) < 6


def test_where_numba_is_not_installed_large_tensors_are_measured_without_it(monkeypatch):
    """As in the small install of the package."""
    found = importlib.util.find_spec
    assert compiled.usable("float32", 10**9, How())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else found(name))

    assert not compiled.usable("float32", 10**9, How())


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-1000, 1000))
def test_numbers_of_one_binade_are_as_far_apart_as_their_bits(value, steps):
    a = np.float32(value)
    b = (a.view(np.int32) + np.int32(steps)).view(np.float32) if abs(int(a.view(np.int32))) < 2**30 else a
    if not (np.isfinite(b) and math.frexp(float(a))[1] == math.frexp(float(b))[1] and (a < 0) == (b < 0)):
        return
    if max(abs(a), abs(b)) < np.finfo(np.float32).tiny:
        return

    assert steps_at("float32", [float(a), float(b)]) == abs(int(a.view(np.int32)) - int(b.view(np.int32)))


@pytest.mark.parametrize(
    ("dtype", "values", "steps"),
    [
        ("float16", [1.0, 1.0009765625], 1.0),
        ("float16", [1.0, 0.99951171875], 0.5),
        ("float16", [0.0, 2.0**-24], 1.0),
        ("float32", [-1e-9, 1e-9], pytest.approx(2**24, rel=0.5)),
        ("float32", [float("inf"), 1.0], None),
        ("int32", [1, 2], None),
        (None, None, None),
    ],
)
def test_how_far_two_numbers_are_apart_at_the_larger(dtype, values, steps):
    assert steps_at(dtype, values) == steps
