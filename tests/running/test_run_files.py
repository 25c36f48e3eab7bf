"""Stored searches as rankings: with the ids of their queries and passages, and refused where these are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.search_job import SEARCH
from harness.errors import UsageError
from harness.inputs.passages import Passages
from harness.inputs.queries import Queries
from harness.rankings.trec import read_run
from harness.running.run_files import named_runs, refuse_moved, run_of
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import cell, spec
from tests.support.small_index import index_arrays

QUERIES = Queries(["q1", "q2"], ["what", "why"], "queries", {})
PASSAGES = Passages([f"p{n}" for n in range(10)], [f"text {n}" for n in range(10)], "collection", {})
SIZES = np.array([2, 3, 1, 2, 4, 2], np.int64)
"""Tokens of passages; they fit the codes of a small index of one chunk."""


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return Tensor(array.dtype.name, array.shape, array)


def searched(
    tmp_path: Path, version: str = "2.8.0", order: list[int] | None = None, **changes: np.ndarray[Any, Any]
) -> StoredCell:
    """A search of two queries that returned three passages of four, and two, over an index in some order."""
    found: dict[str, np.ndarray[Any, Any]] = {
        "pids": np.array([[3, 1, 7, 9], [0, 2, -1, -1]], np.int32),
        "scores": np.array([[9.5, 9.5, 3.25, 1.0], [2.0, 1.5, np.nan, np.nan]], np.float16),
        "found": np.array([4, 2], np.int64),
    }
    rng = np.random.default_rng(0)
    passages = [(rng.integers(0, 50, n).astype(np.int32), rng.integers(0, 256, (n, 2)).astype(np.uint8)) for n in SIZES]
    passages = [passages[place] for place in order or range(len(passages))]
    index = {
        "0.codes": np.concatenate([codes for codes, _ in passages]),
        "0.residuals": np.concatenate([residuals for _, residuals in passages]),
        "doclens": np.array([len(codes) for codes, _ in passages], np.int64),
    }
    store = Store(tmp_path / "store")
    tensors = [(name, tensor(array)) for name, array in ({**index, **found} | changes).items()]
    artifacts = store.ingest(SEARCH, tensors, tmp_path / "none", "full")
    made = spec(
        version, job="search", collection=PASSAGES.record(), queries=QUERIES.record(),
        index={"name": version, "digest": str(order)},
    )  # fmt: skip
    return StoredCell(store, store.put(cell(made, artifacts=artifacts)))


def test_a_stored_search_is_its_lists_with_ids_as_far_as_something_was_found(tmp_path):
    run = run_of(searched(tmp_path), QUERIES, PASSAGES)

    assert run.qids == ("q1", "q2")
    assert run.listed(0) == (["p3", "p1", "p7", "p9"], [9.5, 9.5, 3.25, 1.0])
    assert run.listed(1) == (["p0", "p2"], [2.0, 1.5])


@pytest.mark.parametrize(
    ("queries", "passages", "words"),
    [
        (Queries(["q1", "q2"], ["what", "how"], "others", {}), PASSAGES, "searched with other queries"),
        (QUERIES, Passages(PASSAGES.ids[::-1], PASSAGES.texts[::-1], "turned", {}), "searched with other passages"),
    ],
)
def test_other_queries_and_a_permuted_collection_are_refused(tmp_path, queries, passages, words):
    with pytest.raises(UsageError, match=words):
        run_of(searched(tmp_path), queries, passages)


@pytest.mark.parametrize(
    "changes",
    [
        {"pids": np.array([[3, 1, 7, 10], [0, 2, -1, -1]], np.int32)},
        {"pids": np.array([[3, -1, 7, 9], [0, 2, -1, -1]], np.int32)},
        {"scores": np.array([[9.5, np.nan, 3.25, 1.0], [2.0, 1.5, np.nan, np.nan]], np.float16)},
        {"found": np.array([4], np.int64)},
        {"pids": np.zeros(8, np.int32)},
    ],
)
def test_answers_that_are_none_are_refused(tmp_path, changes):
    with pytest.raises(UsageError, match=r"The rankings of 2\.8\.0 cannot be read"):
        run_of(searched(tmp_path, **changes), QUERIES, PASSAGES)


def test_an_index_is_no_search(tmp_path):
    store = Store(tmp_path / "store")

    with pytest.raises(UsageError, match="is no search"):
        run_of(StoredCell(store, cell(spec())), QUERIES, PASSAGES)


def test_searches_of_indexes_in_another_order_are_refused(tmp_path):
    a, same = searched(tmp_path, "2.7.1"), searched(tmp_path, "2.8.0")
    turned = searched(tmp_path, "2.8.0", order=[5, 4, 3, 2, 1, 0])
    codes = index_arrays()["0.codes"][: int(SIZES.sum())].astype(np.int32)
    changed = searched(tmp_path, "2.8.0", None, **{"0.codes": codes})

    refuse_moved(a, same)
    refuse_moved(a, changed)
    with pytest.raises(UsageError, match="passages are in another order"):
        refuse_moved(a, turned)


def test_two_run_files_need_no_store_and_are_told_apart_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", "/nowhere/at/all")
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.run").write_text("q Q0 d 1 2.5 t\n")

    runs, qrels, note = named_runs([str(tmp_path / one / "x.run") for one in ("old", "new")], None, {"qrels": None})

    assert [run.name for run in runs] == ["old/x.run", "new/x.run"]
    assert (qrels, note) == (None, "")
    assert runs[0].listed(0) == read_run(tmp_path / "old" / "x.run").listed(0)
