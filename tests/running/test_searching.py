"""A search as a kind of job: which index, what decides its cell, what it is given, and what comes of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.comparison import compare_sources
from harness.artifacts.graph import origins, trace
from harness.artifacts.kinds import KINDS
from harness.errors import UsageError
from harness.running.choice import Chooser
from harness.running.experiment import Experiment
from harness.running.finder import Finder
from harness.running.plan import Planned, plan_cells, run_needed
from harness.running.progress import Board
from harness.running.run_files import write_run
from harness.running.selection import Selection
from harness.running.sweep import LocalExecutor
from harness.store.cell import Cell
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.safetensors import read_safetensors
from tests.support.small_index import index_arrays, write_index
from tests.support.standin import make_inputs, make_sites

ROOT = Path(__file__).parents[2]
PASSAGES = 10  # as the stand-in's index has


class Bench:
    """Searches with a stand-in job; 2.7.1 and 2.8.0 make the same index, 2.7.0 another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_inputs(folder)
        lines = [
            json.dumps({"_id": f"p{n}", "text": f"Passage {n} of some that are long enough"}) for n in range(PASSAGES)
        ]
        (folder / "ten.jsonl").write_text("\n".join(lines))
        (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
        self.sites = make_sites(folder / "made", seconds=0.01)

    def selection(self, **changes: Any) -> Selection:
        return Selection(**{
            "matrix_path": ROOT / "matrix.yaml", "home": self.folder / "home", "device": "cpu", "threads": 1,
            "collection": str(self.folder / "ten.jsonl"), "checkpoint": str(self.folder / "ck"), "job": "search",
            "queries": str(self.folder / "queries.jsonl"), "k": 3, "sites": Path(self.sites[1]),
            "site_python": Path(self.sites[3]), **changes,
        })  # fmt: skip

    def experiment(self, **changes: Any) -> Experiment:
        return Experiment(self.selection(**changes))

    def run(self, *versions: str, **changes: Any) -> tuple[list[Cell], list[Planned]]:
        """The cells, and the plan they are of."""
        experiment = self.experiment(**changes)

        def run(of: Experiment, plan: list[Planned]) -> list[Cell]:
            return LocalExecutor(()).run(of, plan, Board([]), evict_after=False)

        ready, bad = run_needed(experiment, versions, run)
        assert (ready, bad) == ([*versions], [])
        plan = plan_cells(experiment, versions, {})
        cells = run(experiment, plan)
        assert all(cell.outcome == "ok" for cell in cells), [cell.reason for cell in cells]
        return cells, plan


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("searches"))


@pytest.fixture(scope="module")
def own(bench: Bench) -> dict[str, Cell]:
    """Each version in its own index."""
    return {cell.version: cell for cell in bench.run("2.7.0", "2.7.1", "2.8.0")[0]}


def test_the_indexes_are_made_first_and_a_stored_search_is_not_run_again(bench, own):
    assert [cell.spec.job for cell in own.values()] == ["search"] * 3
    assert {cell.spec.job for cell in bench.experiment().store.cells()} == {"index", "search"}
    _, plan = bench.run("2.7.0", "2.8.0")
    assert [planned.why for planned in plan] == ["stored", "stored"]


def test_an_index_of_more_ranks_than_there_are_gpus_is_refused_only_where_it_is_not_stored(bench, own):
    def ready(**changes: Any) -> list[str]:
        return run_needed(bench.experiment(**changes), ["2.8.0"], lambda *_: pytest.fail("nothing is to be run"))[0]

    assert ready() == ["2.8.0"]
    with pytest.raises(UsageError, match=r"jobs.index.nranks is 2, .* pass --nranks 1"):
        ready(nranks=2)


def test_a_cell_says_what_it_searched_for_and_in_which_index(own):
    spec = own["2.8.0"].spec

    assert (spec.queries.name, spec.queries.queries) == ("queries", 2)
    assert spec.index.name == spec.version == own["2.8.0"].label == "2.8.0"
    assert spec.index.digest == own["2.7.1"].spec.index.digest != own["2.7.0"].spec.index.digest
    wanted = {
        "k": 3, "ncells": 1, "centroid_score_threshold": 0.5, "ndocs": 256, "query_maxlen": 32, "nbits": 2, "dim": 16,
        "threads": 1, "native_extensions": False,
    }  # fmt: skip
    assert spec.settings == wanted
    assert own["2.8.0"].group == own["2.7.0"].group


@pytest.mark.parametrize(
    ("k", "ncells", "threshold", "ndocs"),
    [(10, 1, 0.5, 256), (11, 2, 0.45, 1024), (100, 2, 0.45, 1024), (101, 4, 0.4, 4096), (2000, 4, 0.4, 8000)],
)
def test_what_is_not_set_is_what_colbert_takes_for_k(k, ncells, threshold, ndocs):
    """`Searcher.dense_search` of colbert-ai 0.2.22."""
    from harness.inputs.jobs import SearchJob

    found = SearchJob(k=k).decisive({})
    assert (found["ncells"], found["centroid_score_threshold"], found["ndocs"]) == (ncells, threshold, ndocs)
    assert SearchJob(k=k, ncells=7).decisive({})["ncells"] == 7
    assert SearchJob(k=k, query_maxlen=64).decisive({"query_maxlen": 32})["query_maxlen"] == 64


def test_what_may_change_a_search_is_in_its_key(bench, own):
    (bench.folder / "other.jsonl").write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "Two?"}\n')
    keys = {
        bench.experiment(**changes).spec("2.8.0").key
        for changes in ({}, {"k": 4}, {"on": "2.7.0"}, {"queries": str(bench.folder / "other.jsonl")},
                        {"limit_queries": 1})
    }  # fmt: skip
    assert len(keys) == 5
    shutil.copy(bench.folder / "queries.jsonl", bench.folder / "renamed.jsonl")
    assert bench.experiment(queries=str(bench.folder / "renamed.jsonl")).spec("2.8.0").key == own["2.8.0"].key


def test_a_search_in_another_version_s_index_is_a_cell_of_its_own(bench, own):
    (mixed,), _ = bench.run("2.8.0", on="2.7.0")

    assert mixed.label == "2.8.0 on 2.7.0"
    assert mixed.spec.lock == own["2.8.0"].spec.lock
    assert mixed.spec.index.digest == own["2.7.0"].spec.index.digest
    assert mixed.group == own["2.7.0"].group
    assert mixed.key not in {cell.key for cell in own.values()}


def test_in_an_index_that_is_its_own_in_every_bit_it_is_the_same_cell(bench, own):
    (mixed,), (planned,) = bench.run("2.8.0", on="2.7.1")

    assert (mixed.key, planned.why, planned.spec.label) == (own["2.8.0"].key, "stored", "2.8.0")


def test_the_worker_gets_a_clean_copy_of_the_index(bench, own, tmp_path):
    experiment = bench.experiment()
    given = experiment.inputs("2.7.0").write(tmp_path)

    index = StoredCell(experiment.store, experiment.index.stored("2.7.0"))
    assert {path.name for path in Path(given["index"]).iterdir()} == {
        *(f"{name}.safetensors" for name in index.names() if name != "doclens"),
        *(f"{chunk}.metadata.json" for chunk in range(2)), *(f"doclens.{chunk}.json" for chunk in range(2)),
        "metadata.json", "plan.json",
    }  # fmt: skip
    for name in index.names():
        if name != "doclens":
            tensor = read_safetensors(Path(given["index"]) / f"{name}.safetensors")["tensor"]
            assert tensor.digest() == index.digest(name)
    lines = [json.loads(line) for line in Path(given["queries"]).read_text().splitlines()]
    assert lines == [{"qid": "q1", "text": "one?"}, {"qid": "q2", "text": "two?"}]


def test_an_index_that_was_damaged_since_it_was_planned_is_not_handed_to_a_search(bench, folder, tmp_path):
    """The job would read past a tensor's end without a word, so this is the last place where it can be seen."""
    inputs = bench.experiment(index=folder).inputs("2.8.0")
    damaged(folder, "code")

    with pytest.raises(UsageError, match=r"cannot be searched: 0\.codes names a centroid that is not among its 4"):
        inputs.write(tmp_path)


def test_an_index_that_cannot_be_searched_ends_its_own_cell_and_no_other(bench, own, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(bench.folder / "home" / "store", home / "store")
    experiment = bench.experiment(home=home, k=2)
    cell = experiment.index.stored("2.7.0")
    (home / "store" / "cells" / cell.key / "index" / "doclens.0.json").write_text("[1]")

    plan = plan_cells(experiment, ["2.7.0", "2.8.0"], {})
    bad, good = LocalExecutor(()).run(experiment, plan, Board([]), evict_after=False)

    assert (bad.outcome, good.outcome) == ("invalid_output", "ok")
    assert "2.7.0 cannot be searched: chunk 0 has" in bad.reason
    assert [one.key for one in Store(home / "store").cells() if one.outcome != "ok"] == [bad.key]
    assert [one.why for one in plan_cells(experiment, ["2.7.0", "2.8.0"], {})][1] == "stored"


def test_another_index_is_where_a_difference_starts(own):
    a, b = own["2.7.0"], own["2.7.1"]
    digests = [{name: one.digest for name, one in cell.artifacts.items()} for cell in (a, b)]

    places = trace(*digests, kind=KINDS["search"])
    assert list(origins(places)) == ["index"]
    assert {p.name: p.change.value for p in places}["centroid_scores"] == "inherited"


def test_two_searches_are_compared_as_two_indexes_are_and_queries_are_counted(bench, own):
    store = bench.experiment().store
    found = compare_sources(StoredCell(store, own["2.7.0"]), StoredCell(store, own["2.7.1"]))

    rows = {row["name"]: row for row in found.to_json()["artifacts"]}
    assert rows["pids"]["bit_equal"]
    assert (rows["centroid_scores"]["queries_n"], rows["centroid_scores"]["queries_n_mismatch"]) == (2, 2)


def test_items_of_a_command_line_name_searches(bench, own):
    bench.run("2.8.0", on="2.7.0")
    chooser = Chooser(bench.selection())
    find = Finder(chooser, ["2.7.0", "2.8.0 on 2.7.0"])

    assert find("2.7.0").cell.key == own["2.7.0"].key
    assert find("2.8.0 on 2.7.0").name == "2.8.0 on 2.7.0"
    # Of equal indexes, either name will do.
    assert find("2.8.0 on 2.7.1").cell.key == own["2.8.0"].key
    assert [cell.label for cell in chooser.choose().cells] == ["2.7.0", "2.7.1", "2.8.0"]


def test_versions_in_one_index_are_a_set_of_their_own(bench, own):
    bench.run("2.8.0", "2.7.1", on="2.7.0")
    found = Chooser(bench.selection(on="2.7.0")).choose()

    assert [cell.label for cell in found.cells] == ["2.7.0", "2.7.1 on 2.7.0", "2.8.0 on 2.7.0"]


def test_a_run_file_has_the_searcher_s_order_and_the_collection_s_ids(bench, own, tmp_path):
    path = write_run(bench.experiment(), own["2.8.0"], tmp_path / "runs")

    lines = path.read_text().splitlines()
    assert path.name == "2.8.0.trec"
    assert lines[:3] == [f"q1 Q0 p{9 - n} {n + 1} {9.5 - n} harness-2.8.0" for n in range(3)]
    assert len(lines) == 6


# ---- an index that somebody else made


@pytest.fixture
def folder(bench: Bench, tmp_path: Path) -> Path:
    return write_index(tmp_path / "theirs", index_arrays(dim=16))


def test_a_folder_is_searched_as_a_cell_s_index_is(bench, folder):
    (found,), _ = bench.run("2.8.0", index=folder)

    assert found.label == "2.8.0 on theirs/"
    assert found.details["sources"]["index"] == {"kind": "folder", "name": "theirs"}
    chosen = Chooser(bench.selection(index=folder)).choose()
    assert [cell.key for cell in chosen.cells] == [found.key]


def damaged(folder: Path, name: str) -> Path:
    arrays = index_arrays(dim=16)
    shutil.rmtree(folder)
    if name == "code":
        arrays["0.codes"][3] = 4
    elif name == "negative code":
        arrays["1.codes"][0] = -1
    elif name == "passage":
        arrays["ivf"][0] = PASSAGES
    elif name == "lengths":
        arrays["ivf_lengths"] = np.full(4, 9, np.int64)
    elif name == "dtype":
        arrays["0.codes"] = arrays["0.codes"].astype(np.float32)
    write_index(folder, arrays)
    if name == "missing":
        (folder / "1.residuals.pt").unlink()
    elif name == "doclens":
        (folder / "doclens.1.json").write_text("[2, 2, 2, 2, 3]")
    elif name == "pickle":
        (folder / "centroids.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "it has no 1.residuals"),
        ("code", "0.codes names a centroid that is not among its 4"),
        ("negative code", "1.codes names a centroid that is not among its 4"),
        ("passage", "its ivf lists a passage that it does not have"),
        ("lengths", "its ivf_lengths are not those"),
        ("dtype", "0.codes is float32, where colbert-ai has int32 or int64"),
        ("doclens", "chunk 1 has 10 codes for passages of 11 tokens"),
        ("pickle", "centroids.pt"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(bench, folder, name, words):
    with pytest.raises(UsageError) as caught:
        bench.experiment(index=damaged(folder, name)).check()

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- what is certain to fail


def test_bad_input_is_one_sentence_before_anything_runs(bench, folder, tmp_path):
    (tmp_path / "qrels.txt").write_text("q9 0 p1 1\n")
    (tmp_path / "nowhere.txt").write_text("q1 0 p77 1\n")
    cases: dict[str, dict[str, Any]] = {
        "Each search is to return 11 passages (jobs.search.k in matrix.yaml), and the collection ten has 10": {"k": 11},
        "none of its 1 judged queries is in queries": {"qrels": str(tmp_path / "qrels.txt")},
        "the passage 'p77', which is relevant to the query 'q1', is not in": {"qrels": str(tmp_path / "nowhere.txt")},
        "has no queries: pass --queries FILE": {"queries": None},
        "give one of them": {"index": folder, "on": "2.7.0"},
        "it is of 10 passages, and the collection has 9": {"index": folder, "limit": 9},
    }
    for words, changes in cases.items():
        with pytest.raises(UsageError) as caught:
            bench.experiment(**changes).check()
        assert words in str(caught.value)


def test_another_checkpoint_s_query_maxlen_is_refused(bench):
    experiment = bench.experiment()
    experiment.job = experiment.job.model_copy(update={"query_maxlen": 128})

    with pytest.raises(UsageError, match=r"query_maxlen is 128, and queries of the checkpoint ck have 32 tokens"):
        experiment.check()


def test_without_its_index_a_search_says_what_to_run(bench):
    with pytest.raises(UsageError, match=r"No index of 2\.6\.0 over ten .* is stored: run `harness index 2\.6\.0`"):
        bench.experiment().spec("2.6.0")


def test_a_job_that_leaves_no_answer_has_not_ended_well(bench, own, tmp_path):
    from harness.running.runner import run_cell

    experiment = bench.experiment()
    python = make_sites(tmp_path / "silent", "phase('encode'); result()\n")[3]
    site = experiment.brought("2.8.0")
    assert site is not None
    cell = run_cell(
        experiment.home, experiment.store, replace(experiment.spec("2.8.0"), repeat=5),
        replace(site, python=Path(python)), experiment.inputs("2.8.0"), device_kind="cpu", capture="full", deadline=60,
    )  # fmt: skip

    assert (cell.outcome, cell.artifacts) == ("invalid_output", {})
    assert "it left no pids, scores, found" in cell.reason
