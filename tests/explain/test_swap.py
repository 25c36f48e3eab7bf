"""Swap: which artifacts can be swapped, and what a swapped run may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.environments.interpreter import Interpreter
from harness.errors import UsageError
from harness.explain.difference import Difference
from harness.explain.pair import Side
from harness.explain.swap import Swapped, check_names, kept
from harness.report.swap_text import sentence
from harness.store.cell import Artifact, Cell
from tests.support.cell_specs import cell, spec


def _cell(**stored: bool) -> Cell:
    artifacts = {
        name.replace("__", "."): Artifact(name, "float32", (1,), "intermediate", kept) for name, kept in stored.items()
    }
    return cell(spec("2.7.1"), artifacts=artifacts)


def _side(**stored: bool) -> Side:
    return Side(_cell(**stored), lambda: Interpreter(Path("python")))


def test_embs_stands_for_every_chunk() -> None:
    assert kept(_side(embs_0=True, embs_1=True, D=True), ["embs"]) == ("embs_0", "embs_1")


@pytest.mark.parametrize(
    ("stored", "name", "words"), [({"D": True}, "sample", "has no artifact"), ({"D": False}, "D", "was not kept")]
)
def test_what_is_not_there_is_refused_in_one_sentence(stored: dict[str, bool], name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kept(_side(**stored), [name])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("batches", "cannot be swapped"),
        ("local_sample_emb", "cannot be swapped"),
        ("embs_x", "cannot be swapped"),
        ("embs_1", "25,000 passages in 1 chunk,"),
    ],
)
def test_what_no_job_makes_is_known_without_a_cell(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_names([name], lambda: 25_000)


def test_what_some_job_makes_can_be_named_without_a_cell() -> None:
    check_names(["embs", "embs_0", "embs_1", "sample"], lambda: 25_001)


def _swapped(*differing: str, **more: Any) -> Swapped:
    cell = _cell(sample=True, centroids_raw=True, centroids_normalized=True, centroids=True, D=True)
    return Swapped(
        "2.8.0", "2.7.1", "2.7.1", ("centroids_raw",), cell, dict.fromkeys(differing, Difference(None, None)), **more
    )


def test_only_what_is_computed_from_the_swapped_artifact_counts_as_after_it() -> None:
    assert _swapped().downstream == ["centroids_normalized", "centroids"]


def test_a_difference_before_the_swap_does_not_make_it_fail() -> None:
    one = _swapped("D")

    assert "bit for bit that of 2.7.1" in sentence(one)


def test_a_gate_that_changes_something_says_what() -> None:
    assert sentence(_swapped("centroids", gate=True)).endswith("changes centroids.")
