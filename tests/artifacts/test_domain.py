"""What an index's numbers mean, held against slow references, on numbers that no index should hold, and when big."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from harness.artifacts.meaning import code_facts, ivf_facts
from harness.artifacts.permutation import Permutation, find_permutation
from harness.tensors.tensor import Tensor


class Memory:
    """A source from a dictionary of arrays."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.name, self.arrays = "memory", {name: Tensor.of(np.asarray(array)) for name, array in arrays.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def load(self, name: str) -> Tensor:
        return self.arrays[name]

    def digest(self, name: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def metadata(self) -> dict[str, Any]:
        return {"config": {"nbits": 2}}


@contextmanager
def at_most(mib: int) -> Iterator[None]:
    """Fail where more than so much memory is taken at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < mib * 2**20


def random_lists(rng: np.random.Generator, k: int) -> tuple[Tensor, Tensor, list[set[int]]]:
    """Lists in no order, with repeats, some empty, one longer than the others together, and padding at the end."""
    sizes = rng.integers(0, 6, k)
    sizes[k // 2] = 40
    lists = [rng.integers(0, 30, size) for size in sizes]
    flat = np.concatenate([*lists, np.zeros(int(rng.integers(0, 5)), np.int64)]).astype(np.int32)
    return Tensor.of(flat), Tensor.of(sizes.astype(np.int64)), [set(one.tolist()) for one in lists]


@pytest.mark.parametrize("strip", [1, 16, 1 << 20])
@pytest.mark.parametrize("permuted", [False, True])
def test_inverted_lists_are_compared_as_sets(strip: int, permuted: bool) -> None:
    """However many lists are taken at a time, the counts are those of Python's sets."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        k = int(rng.integers(1, 12))
        (ivf_a, sizes_a, a), (ivf_b, sizes_b, b) = random_lists(rng, k), random_lists(rng, k)
        to_a = rng.permutation(k) if permuted else np.arange(k)
        permutation = Permutation(to_a, exact=True) if permuted else None
        found = ivf_facts((ivf_a, ivf_b), (sizes_a, sizes_b), permutation, strip=strip)
        in_a = {int(to_a[row]): b[row] for row in range(k)}

        assert {
            "ivf_padding_a": ivf_a.n - int(sizes_a.data.sum()),
            "ivf_padding_b": ivf_b.n - int(sizes_b.data.sum()),
            "ivf_lists_n": k,
            "ivf_lists_n_mismatch": sum(a[row] != in_a[row] for row in range(k)),
            "ivf_entries_only_a": sum(len(a[row] - in_a[row]) for row in range(k)),
            "ivf_entries_only_b": sum(len(in_a[row] - a[row]) for row in range(k)),
        } == found


@pytest.mark.parametrize("odd", [-1, -(2**63), 2**41, 2**63 - 1])
def test_what_is_no_passage_is_not_counted_as_one(odd: int) -> None:
    """A negative or an absurd number in an ivf is named, rather than taken for another list's entry."""
    lengths = Tensor.of(np.array([2, 1], np.int64))
    good, bad = Tensor.of(np.array([1, 2, 3])), Tensor.of(np.array([1, odd, 3]))

    assert "ivf of B holds what is no passage's number" == ivf_facts((good, bad), (lengths, lengths), None)["ivf_note"]


def test_long_inverted_lists_take_little_memory() -> None:
    """Four million entries in lists of 500; those of MS MARCO are a hundred times as many."""
    rng = np.random.default_rng(0)
    flat = np.sort(rng.integers(0, 10**7, (8000, 500)), axis=1).astype(np.int32)
    other = flat.copy()
    other[::7, ::11] += 1
    lengths = Tensor.of(np.full(8000, 500, np.int64))
    with at_most(96):
        found = ivf_facts((Tensor.of(flat.ravel()), Tensor.of(other.ravel())), (lengths, lengths), None)

    assert len(range(0, 8000, 7)) == found["ivf_lists_n_mismatch"]


def codes_pair(rng: np.random.Generator, n: int, k: int, dim: int) -> tuple[Memory, Memory]:
    """Two sides with the same centroids and embeddings, and a fifth of the codes elsewhere."""
    centroids = rng.standard_normal((k, dim)).astype(np.float16)
    codes = rng.integers(0, k, n).astype(np.int32)
    moved = np.where(rng.random(n) < 0.2, (codes + 1) % k, codes).astype(np.int32)
    base = {"centroids": centroids, "embs_0": rng.standard_normal((n, dim)).astype(np.float16)}
    return Memory(base | {"0.codes": codes}), Memory(base | {"0.codes": moved})


@pytest.mark.parametrize("permuted", [False, True])
def test_codes_are_looked_at_in_strips(permuted: bool) -> None:
    """What is found does not depend on how many codes are taken at a time, and at most a sample is judged."""
    rng = np.random.default_rng(1)
    a, b = codes_pair(rng, 1000, 16, 8)
    permutation = Permutation(rng.permutation(16), exact=True) if permuted else None
    if permutation is not None:
        order = permutation.to_a
        b.arrays["centroids"] = Tensor.of(a.load("centroids").data[order])
        b.arrays["0.codes"] = Tensor.of(np.argsort(order)[b.load("0.codes").data].astype(np.int32))
    pair = a.load("0.codes"), b.load("0.codes")
    whole = code_facts(a, b, 0, pair, permutation)
    assert whole == code_facts(a, b, 0, pair, permutation, strip=7)

    left, right = (side.data for side in pair)
    back = right if permutation is None else permutation.to_a[right]
    embs, centroids = (a.load(name).data.astype(np.float64) for name in ("embs_0", "centroids"))
    margins = [abs(embs[i] @ (centroids[left[i]] - centroids[back[i]])) for i in np.flatnonzero(left != back)]
    assert int((left != back).sum()) == whole["codes_n_moved"] == whole["codes_judged"]
    assert max(margins) == pytest.approx(whole["codes_margin_max"])
    sampled = code_facts(a, b, 0, pair, permutation, strip=7, sample=50)
    assert (whole["codes_n_moved"], 50) == (sampled["codes_n_moved"], sampled["codes_judged"])


def test_many_codes_and_centroids_take_little_memory() -> None:
    """Forty thousand centroids of 128 dimensions, all of them changed, and a million codes."""
    rng = np.random.default_rng(2)
    centroids = rng.standard_normal((40_000, 128)).astype(np.float16)
    a, b = (Memory({"centroids": centroids + np.float16(step)}) for step in (0, 0.001))
    codes = rng.integers(0, 40_000, 1_000_000).astype(np.int32)
    other = codes.copy()
    other[:1000] = rng.integers(0, 40_000, 1000)
    for side, found in ((a, codes), (b, other)):
        side.arrays |= {"0.codes": Tensor.of(found), "bucket_weights": Tensor.of(np.array([-1, -0.5, 0.5, 1]))}
        side.arrays["0.residuals"] = Tensor("uint8", (found.size, 32), np.broadcast_to(np.uint8(27), (found.size, 32)))
    with at_most(80):
        assert find_permutation(a.load("centroids"), b.load("centroids")) is None
        facts = code_facts(a, b, 0, (a.load("0.codes"), b.load("0.codes")), None)

    assert int((codes != other).sum()) == facts["codes_judged"]


def test_centroids_too_long_for_float64_warn_of_nothing() -> None:
    """Rows whose length overflows, and rows of infinities, are like no other row."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((8, 4)) * 1e200
    b = a[::-1] * 1.0001
    b[2] = np.inf

    assert find_permutation(Tensor.of(a), Tensor.of(b)) is None
    c64 = Tensor.of((a / 1e200).astype(np.complex64))
    assert find_permutation(c64, Tensor.of(c64.data[::-1])) is None


def test_codes_of_centroids_that_are_not_finite() -> None:
    """A margin that cannot be computed is no near-tie, and nothing is warned of."""
    a, b = codes_pair(np.random.default_rng(4), 100, 4, 8)
    bad = a.load("centroids").data.copy()
    bad[:] = np.inf
    b.arrays["centroids"] = Tensor.of(bad)
    facts = code_facts(a, b, 0, (a.load("0.codes"), b.load("0.codes")), None)

    assert (0, facts["codes_n_moved"]) == (facts["codes_near_ties"], facts["codes_real_moves"])


def unit_rows(rng: np.random.Generator, k: int, dim: int = 32) -> Any:
    rows = rng.standard_normal((k, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("k", [8, 500, 9000])
def test_a_permutation_with_some_new_rows_is_still_one(k: int, noise: float) -> None:
    """K-means that comes out in another order, with a few centroids elsewhere: the others are matched."""
    rng = np.random.default_rng(k)
    a, order = unit_rows(rng, k), np.roll(np.arange(k), 3)
    b = (a[order] + noise * rng.standard_normal(a.shape)).astype(np.float16)
    new = [2] if k == 8 else [2, 7, 100]
    b[new] = unit_rows(rng, len(new))
    found = find_permutation(Tensor.of(a), Tensor.of(b))

    assert found is not None
    assert (len(new), False) == (found.unmatched, found.exact)
    kept = np.setdiff1d(np.arange(k), new)
    np.testing.assert_array_equal(order[kept], found.to_a[kept])
    np.testing.assert_array_equal(np.arange(k), np.sort(found.to_a))


def test_rows_that_changed_where_they_are_are_not_permuted() -> None:
    """Many rows that are like themselves, some that are like none, and unrelated ones: nothing is claimed."""
    rng = np.random.default_rng(5)
    a = unit_rows(rng, 300)
    near = (a + 1e-3 * rng.standard_normal(a.shape)).astype(np.float16)
    near[::10] = unit_rows(rng, 30)
    swapped = unit_rows(rng, 300)
    swapped[:20] = np.roll(a[:20], 1, axis=0)
    for b in (near, swapped, unit_rows(rng, 300)):
        assert find_permutation(Tensor.of(a), Tensor.of(b)) is None


def test_two_rows_with_one_nearest_row() -> None:
    """The more similar one has it; the other keeps what is left."""
    a = unit_rows(np.random.default_rng(6), 12)
    b = np.roll(a, 1, axis=0)
    b[5] = (b[4].astype(np.float32) * 1.001 + 1e-3).astype(np.float16)
    found = find_permutation(Tensor.of(a), Tensor.of(b))

    assert found is not None
    assert 1 == found.unmatched
    np.testing.assert_array_equal(np.roll(np.arange(12), 1), found.to_a)
