"""What is equal is settled early, and never what is not: a false "equal" is the worst that could be said."""

from __future__ import annotations

import numpy as np
import pytest

from harness.tensors import alike, one_byte, passes
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.metrics import measure
from harness.tensors.passes import How, each_chunk
from harness.tensors.tensor import Tensor

SMALL = How(chunk=1 << 12, numpy_chunk=1 << 8, compiled_from=1 << 60)
SETTLED = ("float16", "bfloat16", "float32", "uint8", "int8", "int16", "int32", "int64", "uint64", "bool")


def numbers(dtype: str, n: int = 30_000) -> Array:
    """Bits of finite numbers, as the dtype is held."""
    rng = np.random.default_rng(7)
    size = DTYPES[dtype].itemsize
    bits = rng.integers(0, 2 if dtype == "bool" else 256, n * size, dtype=np.uint8)
    if DTYPES[dtype].kind == "float":
        bits[size - 1 :: size] &= 0xB7  # some bit of every exponent is zero
    return bits.view(DTYPES[dtype].storage)


@pytest.mark.parametrize("dtype", SETTLED)
def test_equal_tensors_have_the_metrics_of_going_through_both(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Tensor.of(numbers(dtype), dtype), Tensor.of(numbers(dtype), dtype)
    settled = measure(a, b, how=SMALL)
    assert alike.run(a, b, [], SMALL) is not None

    monkeypatch.setattr(alike, "run", lambda *_: None)
    through = measure(a, b, how=SMALL)

    assert settled.bit_equal
    assert settled.cosine == pytest.approx(through.cosine, rel=1e-12)
    assert {**vars(settled), "cosine": None} == {**vars(through), "cosine": None}


@pytest.mark.parametrize("dtype", SETTLED)
@pytest.mark.parametrize("zero", [0, 0x80])
def test_zeros_have_no_angle(dtype: str, zero: int) -> None:
    raw = np.zeros(100 * DTYPES[dtype].itemsize, np.uint8)
    if DTYPES[dtype].kind == "float":
        raw[DTYPES[dtype].itemsize - 1 :: DTYPES[dtype].itemsize] = zero
    one = Tensor.of(raw.view(DTYPES[dtype].storage), dtype)

    assert measure(one, Tensor.of(one.data.copy(), dtype)).cosine is None


@pytest.mark.parametrize("dtype", [*SETTLED, "float64", "complex64", "float8_e4m3fn"])
def test_one_bit_anywhere_is_seen(dtype: str) -> None:
    rng = np.random.default_rng(1)
    bits = np.zeros(1 << 15, np.uint8)
    for place in [0, 255, 256, 4095, 4096, bits.size - 1, *rng.integers(0, bits.size, 30)]:
        other = bits.copy()
        other[place] ^= 1
        a, b = (Tensor.of(side.view(DTYPES[dtype].storage), dtype) for side in (bits, other))
        assert not measure(a, b, how=SMALL).bit_equal, place


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("high", [0x7F, 0xFF])
def test_what_is_not_finite_is_not_settled(dtype: str, high: int) -> None:
    raw = np.zeros(3000, np.uint8)
    raw[raw.size // 2 - DTYPES[dtype].itemsize : raw.size // 2] = 0xFF
    raw[raw.size // 2 - 1] = high
    one = Tensor.of(raw.view(DTYPES[dtype].storage), dtype)

    found = measure(one, Tensor.of(one.data.copy(), dtype), how=SMALL)

    assert (found.nan_a, found.n_mismatch, found.bit_equal) == (1, 1, True)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.02, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("begin", [0, 1])
def test_pairs_of_bytes_are_counted_however_many_differ(share: float, begin: int) -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, 2_600_001, dtype=np.uint8)
    b = np.where(rng.random(a.size) < share, rng.integers(0, 256, a.size, dtype=np.uint8), a)
    a, b = a[begin:], b[begin:]

    found = one_byte.pair_counts(Tensor.of(a), Tensor.of(b), How(chunk=1 << 21, compiled_from=1 << 60))
    every = passes.pairs(a, b)

    apart = ~np.eye(256, dtype=bool)
    assert (found.pairs[apart] == every[apart]).all()
    assert int(found.pairs.sum()) + found.same == a.size
    values = np.arange(256, dtype=np.int64)
    assert found.squares + int((found.pairs.diagonal() * values**2).sum()) == int((every.diagonal() * values**2).sum())


@pytest.mark.parametrize("first", [7, 70_000, 1_500_000])
def test_bytes_that_differ_are_found_wherever_they_are(first: int) -> None:
    a, last = np.ones(3_000_001, np.uint8), 2_999_990
    b = a.copy()
    b[first], b[last] = 3, 200

    found = measure(Tensor.of(a), Tensor.of(b))

    assert found.max_abs_at is not None
    assert found.max_abs_at.index == (last,)
    assert [one.index for one in found.first] == [(first,), (last,)]
    assert found.n_mismatch == 2


def test_counts_are_those_of_the_tensors_that_are_asked_about() -> None:
    a, b = Tensor.of(np.zeros(9, np.uint8)), Tensor.of(np.ones(9, np.uint8))

    assert one_byte.pair_counts(a, b).pairs[0, 1] == 9
    assert one_byte.pair_counts(b, a).pairs[1, 0] == 9
    assert one_byte.pair_counts(a, Tensor.of(np.full(9, 2, np.uint8))).pairs[0, 2] == 9


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint64"])
def test_integers_of_which_few_differ_have_the_metrics_of_going_through_all(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = np.random.default_rng(5).integers(0, 30_000, 20_000).astype(dtype)
    b = a.copy()
    b[::97] += 3
    b[256:512] = 1
    few = measure(Tensor.of(a), Tensor.of(b), how=SMALL)

    monkeypatch.setattr(passes, "_int_chunk", passes._chunk)

    assert few == measure(Tensor.of(a), Tensor.of(b), how=SMALL)


def test_whoever_stops_asking_ends_the_work() -> None:
    looked = []

    def look(_p: Array, _q: Array, start: int) -> bool:
        looked.append(start)
        return False

    zeros = np.zeros(10_000, np.uint8)
    assert not all(each_chunk(zeros, zeros, 1, look, 2))
    assert len(looked) < zeros.size
