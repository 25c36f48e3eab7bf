"""Jobs on two ranks in a real environment: colbert-ai's own launcher, over gloo, since it knows no group on a CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.environments.build import Environment
from harness.home import Home
from tests.support.real_environments import NEW, environments, home
from tests.support.training import PASSAGES, TRAIN, Trained, Training

__all__ = ["environments", "home"]  # fixtures

pytestmark = pytest.mark.integration

GLOO = {"fault": "ranks over gloo", "after": "colbert.utils.distributed"}
INDEX: dict[str, Any] = {
    "nbits": 2, "index_bsize": 4, "doc_maxlen": 40, "kmeans_niters": 2, "dim": 96, "threads": 1,
    "native_extensions": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def training(home: Home, environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(home, environments, tmp_path_factory.mktemp("ranks"), NEW)


def different(a: Trained, b: Trained) -> list[str]:
    """The artifacts that are not bit for bit the same in both."""
    names = sorted({*a.arrays, *b.arrays})
    return [
        name
        for name in names
        if (x := a.arrays.get(name)) is None or (y := b.arrays.get(name)) is None or x.tobytes() != y.tobytes()
    ]


def test_two_ranks_train_as_one_does_on_half_of_the_triples(training):
    """Every rank of colbert-ai 0.2.22 reads the same lines, every second one, and computes the same."""
    two = training.train(settings={"nranks": 2, "accumsteps": 1}, **GLOO)
    lines = Path(training.triples).read_text().splitlines(keepends=True)
    half = training.folder / "half.jsonl"
    half.write_text("".join(lines[::2]))
    one = training.train(settings={"bsize": TRAIN["bsize"] // 2, "accumsteps": 1}, triples=str(half))

    assert (two.result["outcome"], two.result["not_captured"]) == ("ok", {}), two.result
    assert different(one, two) == []
    (other,) = two.result["ranks"]
    assert (other["rank"], other["different"]) == (1, [])
    assert set(other["same"]) == set(two.arrays)
    assert two.result["parameters"] == one.result["parameters"]
    assert not (two.run / "out" / "scratch").exists()


def test_two_ranks_index_a_chunk_each_and_what_they_share_is_whole(training):
    found = training.train(job="index", settings={**INDEX, "nranks": 2}, capture="full", **GLOO)
    a, result = found.arrays, found.result

    assert (result["outcome"], result["not_captured"]) == ("ok", {}), result
    assert {path.name for path in (found.run / "out" / "index").glob("*.codes.pt")} == {"0.codes.pt", "1.codes.pt"}
    assert a["sample_pids"].tolist() == list(range(PASSAGES))
    rows = len(a["embs_0"]) + len(a["embs_1"])
    assert len(a["local_sample_embs"]) == len(a["codes"]) == rows
    # All passages are in the sample, rank 0's first: it is what the chunks hold, shuffled for k-means.
    encoded = np.concatenate([a["embs_0"], a["embs_1"]]).astype(np.float16)
    np.testing.assert_array_equal(a["local_sample_embs"].astype(np.float16), encoded)
    shuffled = np.concatenate([a["sample"], a["sample_heldout"]])
    assert sorted(map(bytes, shuffled.view(np.uint8))) == sorted(map(bytes, encoded.view(np.uint8)))
    (other,) = result["ranks"]
    assert set(other["same"]) == {"num_passages", "sample_pids"}
    assert {"D", "batches"} <= set(other["different"])
    assert set(result["seconds"]) >= {"import", "load", "sample", "train", "encode", "finalize", "total"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, r"Rank \d of 2: ZeroDivisionError in phase sample: integer (division or )?modulo by zero"),
        ({**GLOO, "fault": "a rank that dies"}, "Rank 1 of 2: its process ended with exit status 41"),
    ],
    ids=["colbert-ai's own on a CPU", "a rank that dies"],
)
def test_a_rank_that_ends_badly_ends_the_job_and_says_why(training, options, reason):
    found = training.train(job="index", settings={**INDEX, "nranks": 2}, capture="final", **options)

    assert found.result["outcome"] == "crashed"
    assert re.match(reason, found.result["reason"]), found.result["reason"]
