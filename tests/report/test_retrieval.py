"""The column "must I re-index?", its sentence and its two tables, over an index and planted searches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.artifacts.directory import index_tensors
from harness.artifacts.index_job import INDEX
from harness.errors import UsageError
from harness.inputs.matrix_file import load_matrix
from harness.rankings.verdict import Verdict
from harness.report import reduce
from harness.report.console import headline_text, not_covered
from harness.running.choice import Choice
from harness.store.cell import Cell
from harness.store.store import Store
from tests.support.cell_specs import ROOT, cell, spec
from tests.support.runs import ranked, run_of
from tests.support.small_index import index_arrays, write_index

MATRIX = load_matrix(ROOT / "matrix.yaml")
N = 40
GOOD, WORSE = "good so bad", "bad so good"
STEP = ["2.7.1", "2.8.0"]


class Planted:
    """Searches as `harness.running.deployments.Searches` has them: (searcher, index) to what each query returns."""

    def __init__(self, lists: Mapping[tuple[str, str], str], moved: str = "") -> None:
        self.experiment = SimpleNamespace(matrix=MATRIX)
        self.qrels = {str(query): {"good": 1} for query in range(N)}
        self.moved = moved
        self._lists = lists

    def cell(self, searcher: str, index: str) -> Cell | None:
        if (searcher, index) not in self._lists:
            return None
        return cell(spec(searcher, job="search", index={"name": index, "digest": index}))

    def repeats(self, _cell: Cell) -> list[Cell]:
        return []

    def run(self, of: Cell) -> Any:
        assert of.spec.index is not None
        text = self._lists[of.version, of.spec.index.name]
        return run_of(of.label, {str(query): ranked(text) for query in range(N)})

    def check(self, _a: Cell, _b: Cell) -> None:
        if self.moved:
            raise UsageError(self.moved)


@pytest.fixture
def reduced(tmp_path: Path, monkeypatch):
    """Reduce an index that the step changed, or not, with planted searches."""

    def of(searches: Planted | None, *, changed: bool = True, note: str = "") -> reduce.Reduced:
        store = Store(tmp_path / "store")
        for version in STEP:
            arrays = index_arrays()
            if changed and version == STEP[1]:
                arrays["centroids"].reshape(-1)[0] += 1
            index = write_index(tmp_path / version, arrays)
            artifacts = store.ingest(INDEX, index_tensors(index), tmp_path / "none", "full")
            store.put(cell(spec(version), artifacts=artifacts), index=index)
        monkeypatch.setattr(reduce, "searches_of", lambda *_: (searches, note))
        choice = Choice(store, tuple(store.cells()), store.listed())
        return reduce.reduce_cells(MATRIX, choice, STEP, tmp_path / "tables", lambda: None)  # type: ignore[arg-type, return-value]

    return of


def rows(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / "tables" / f"{name}.parquet").to_pylist()


def all_four(**others: str) -> dict[tuple[str, str], str]:
    a, b = STEP
    found = {"a_on_a": GOOD, "b_on_b": GOOD, "b_on_a": GOOD, "a_on_b": GOOD} | others
    return {(a, a): found["a_on_a"], (b, b): found["b_on_b"], (b, a): found["b_on_a"], (a, b): found["a_on_b"]}


@pytest.mark.parametrize(
    ("searches", "changed", "verdict", "shown"),
    [
        (all_four(), False, "unchanged", "no: unchanged"),
        (all_four(), True, "keep", "no: keep"),
        (all_four(b_on_a=WORSE), True, "re-index", "yes: re-index"),
        (all_four(b_on_a=WORSE, b_on_b=WORSE), True, "investigate", "not known: investigate"),
        ({("2.7.1", "2.7.1"): GOOD}, True, "investigate", "not known: investigate"),
    ],
)
def test_the_headline_says_whether_to_index_again(tmp_path, reduced, searches, changed, verdict, shown):
    found = reduced(Planted(searches), changed=changed)
    text = headline_text(found)

    assert "Must I re-index?" in text
    assert shown in text
    assert rows(tmp_path, "consecutive")[0]["verdict"] == verdict
    assert rows(tmp_path, "consecutive")[0]["verdict_reason"] in text
    assert "Not covered: " in text
    assert "the embedded one never learned" in text


def test_each_deployment_has_a_row_for_each_measure(tmp_path, reduced):
    reduced(Planted(all_four(b_on_a=WORSE)))
    found = {(row["deployment"], row["measure"]): row for row in rows(tmp_path, "retrieval")}

    assert {deployment for deployment, _ in found} == {"b_on_b", "b_on_a", "a_on_b"}
    assert found["b_on_b", "identical"]["value"] == 1
    assert found["b_on_a", "identical"]["value"] == 0
    row = found["b_on_a", "RR"]
    assert row["value_a"] == 1
    assert row["value"] == pytest.approx(row["value_a"] + row["diff"])
    assert row["value"] == pytest.approx(1 / 3)
    assert (row["equivalent"], row["changed"], row["queries"]) == (False, N, N)
    assert row["key_a"] != row["key_b"]


def test_each_search_has_its_lists_once(tmp_path, reduced):
    reduced(Planted(all_four()))
    found = rows(tmp_path, "rankings")

    assert len(found) == 4 * N * 3
    one = [row for row in found if row["deployment"] == "2.8.0 on 2.7.1" and row["query"] == "7"]
    assert [(row["rank"], row["passage"], row["score"]) for row in one] == [
        (1, "good", 100.0), (2, "so", 99.0), (3, "bad", 98.0),
    ]  # fmt: skip
    assert {(row["searcher"], row["index"]) for row in one} == {("2.8.0", "2.7.1")}


def test_indexes_in_another_order_have_no_numbers(tmp_path, reduced):
    text = headline_text(reduced(Planted(all_four(), moved="The passages are in another order.")))

    assert "not known: investigate" in text
    assert "Not covered: The passages are in another order." in text
    assert rows(tmp_path, "retrieval") == []


def test_without_searches_there_is_no_column_and_no_table(tmp_path, reduced):
    text = headline_text(reduced(None, note="2 searches are not shown: name --collection."))

    assert "re-index" not in text
    assert "2 searches are not shown" in text
    assert rows(tmp_path, "consecutive")[0]["verdict"] is None
    assert not (tmp_path / "tables" / "retrieval.parquet").exists()


def test_tables_of_searches_that_are_not_there_any_more_go(tmp_path, reduced):
    """Beside new tables, those of an earlier reduction would be taken for theirs."""
    reduced(Planted(all_four()))
    assert rows(tmp_path, "rankings")

    reduced(None)

    left = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert left == {"cells", "artifacts", "comparisons", "consecutive", "env_delta"}
    assert {row["job"] for row in rows(tmp_path, "cells")} == {"index"}


def test_every_key_of_the_tables_of_searches_is_a_cell_of_the_table_of_cells(tmp_path, reduced):
    reduced(Planted(all_four()))
    found = {row["key"]: row for row in rows(tmp_path, "cells")}
    named = {row["key"] for row in rows(tmp_path, "rankings")}
    named |= {row[side] for row in rows(tmp_path, "retrieval") for side in ("key_a", "key_b")}

    assert {key for key, row in found.items() if row["job"] == "search"} == named
    searched = {(found[key]["version"], found[key]["index"]) for key in named}
    assert searched == {(by, of) for by in STEP for of in STEP}


def test_what_only_some_steps_do_not_cover_is_said_of_these():
    def verdict(*uncovered):
        return Verdict("keep", "a sentence", uncovered)

    told = [*not_covered({("1", "2"): verdict("Noise.", "Others."), ("2", "3"): verdict("Others.")})]

    assert told == ["Not covered for 1 -> 2: Noise.", "Not covered: Others."]
