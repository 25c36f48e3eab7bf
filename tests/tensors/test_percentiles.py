"""Percentiles, of which a sample says where to look for them: right whatever the sample says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.tensors import compiled
from harness.tensors.dtypes import DTYPES
from harness.tensors.metrics import measure
from harness.tensors.passes import How
from harness.tensors.tensor import Tensor

N = 7_000_000
STARTS = np.linspace(0, N - compiled._SAMPLED, N // (compiled._SPARED * compiled._SAMPLED), dtype=np.int64)


def changed(pattern: str) -> np.ndarray[Any, Any]:
    """Steps between neighbouring floats, one an element."""
    rng = np.random.default_rng(2)
    steps = np.zeros(N, np.uint16)
    sampled = (STARTS[:, None] + np.arange(compiled._SAMPLED)).ravel()
    if pattern == "everywhere":
        steps[:] = rng.integers(0, 3000, N)
    elif pattern == "one of a hundred":
        steps[rng.random(N) < 0.01] = 7
    elif pattern == "more where the sample is from":
        steps[:] = rng.integers(0, 8, N)
        steps[sampled] = rng.integers(1000, 3000, sampled.size)
    elif pattern == "nowhere that the sample is from":
        steps[:] = rng.integers(1000, 3000, N)
        steps[sampled] = 0
    return steps


@pytest.mark.parametrize(
    "pattern",
    ["everywhere", "one of a hundred", "more where the sample is from", "nowhere that the sample is from", "nowhere"],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_percentile_is_that_of_all_elements(pattern: str, dtype: str, threads: int) -> None:
    kind = DTYPES[dtype]
    bits = np.full(N, 0x3C << (8 * kind.itemsize - 8), f"<u{kind.itemsize}")
    other = bits + changed(pattern)
    bits[-1], other[-1] = 0, 1  # never the same bytes
    a, b = (Tensor.of(side.view(kind.storage), dtype) for side in (bits, other))

    quick = measure(a, b, how=How(compiled_from=0, chunk=1 << 20, threads=threads))

    exact = np.sort(np.abs(other.astype(int) - bits.astype(int)))[int(np.ceil(0.99 * N)) - 1]
    assert quick.p99_ulp is not None
    assert quick.p99_ulp == exact if exact < 256 else exact / 1.008 < quick.p99_ulp <= exact
    assert quick.n_mismatch == np.count_nonzero(bits != other)
    slow = measure(a, b, how=How(compiled_from=N + 1))
    for name in ("p50_abs", "p99_abs", "p999_abs", "p99_ulp"):
        assert getattr(quick, name) == getattr(slow, name)


def bytes_of(pattern: str, dtype: str) -> tuple[Tensor, Tensor]:
    """Two tensors of an integer dtype, all numbers those of bytes, that differ like this."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, N, dtype=np.uint8)
    if pattern == "everywhere":
        b = rng.integers(0, 256, N, dtype=np.uint8)
    elif pattern == "by one":
        b = a ^ (rng.random(N) < 0.6).astype(np.uint8)
    elif pattern == "as far as can be":
        ends = np.array([0x80, 0x7F] if dtype == "int8" else [0, 255], np.uint8)
        a, b = (rng.choice(ends, N) for _ in range(2))
    elif pattern == "far from zero":
        a = rng.integers(100, 120, N, dtype=np.uint8)
        b = a + rng.integers(0, 4, N, dtype=np.uint8)
    else:
        b = a.copy()
        b[STARTS[:, None] + np.arange(compiled._SAMPLED)] += 1 + np.uint8(pattern == "other than the sample")
        b[: N // 2] ^= 1
    kind = np.dtype(DTYPES[dtype].storage)
    x, y = (side.view(kind) if kind.itemsize == 1 else side.astype(kind) for side in (a, b))
    return Tensor.of(x, dtype), Tensor.of(y, dtype)


@pytest.mark.parametrize(
    "pattern", ["everywhere", "by one", "as far as can be", "far from zero", "the sample's", "other than the sample"]
)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_integers_have_the_metrics_of_the_plain_loop(pattern: str, dtype: str, threads: int) -> None:
    a, b = bytes_of(pattern, dtype)
    how = How(compiled_from=0, chunk=1 << 20, threads=threads)

    assert measure(a, b, how=how) == measure(a, b, how=replace(how, compiled_from=N + 1))
