"""Histograms by octave: planted differences are counted where they are, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from harness.tensors.metrics import measure
from harness.tensors.spread import spread
from harness.tensors.tensor import Tensor


def test_planted_differences_are_counted_in_their_octaves():
    a = np.ones(3_000_000, np.float32)
    b = a.copy()
    b[5] += 0.5  # 2**-1, and half of the floats between 1 and 2
    b[7:9] += 0.75  # also from 2**-1 to below 2**0
    b[2_500_000] = np.nextafter(np.float32(1), np.float32(2))  # 2**-23: one step, in another chunk
    b[9], b[10] = np.nan, np.inf  # no number, so no distance

    apart, steps = spread(Tensor.of(a, "float32"), Tensor.of(b, "float32"))

    assert apart == {-1: 3, -23: 1}
    assert steps == {22: 3, 0: 1}


def test_equal_numbers_of_other_bits_and_integers_have_no_spread():
    zeros = np.zeros(4, np.float32)

    assert spread(Tensor.of(zeros, "float32"), Tensor.of(-zeros, "float32")) == ({}, {})
    assert spread(Tensor.of(np.arange(4), "int64"), Tensor.of(np.arange(4) + 1, "int64")) == ({}, {})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_counts_and_the_greatest_octave_are_those_of_the_metrics(dtype):
    generator = np.random.default_rng(0)
    a = generator.standard_normal((57, 11)).astype(dtype)
    b = np.where(generator.random(a.shape) < 0.3, a * a.dtype.type(1.01), a)
    pair = Tensor.of(a, dtype), Tensor.of(b, dtype)

    apart, steps = spread(*pair)

    found = measure(*pair)
    assert sum(apart.values()) == sum(steps.values()) == found.n_mismatch > 0
    assert 2.0 ** max(apart) <= found.max_abs < 2.0 ** (max(apart) + 1)
    assert found.max_ulp is not None
    assert 2 ** max(steps) <= found.max_ulp < 2 ** (max(steps) + 1)
