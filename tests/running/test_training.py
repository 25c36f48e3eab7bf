"""A training as a kind of job: what decides its cell, what it is given, and its model as a checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.comparison import compare_sources
from harness.errors import UsageError
from harness.explain.marks import mark
from harness.inputs.checkpoint import small_files
from harness.running.choice import Chooser
from harness.running.experiment import Experiment
from harness.running.plan import plan_cells
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.running.slurm.start import absolute_paths
from harness.running.sweep import LocalExecutor
from harness.running.training import trained_cell, trained_checkpoint
from harness.store.cell import Cell
from harness.store.store import MODEL, Store
from harness.store.stored import StoredCell
from harness.store.transfer import copy_cells
from harness.tensors.safetensors import read_safetensors
from tests.support.standin import make_inputs, make_sites

ROOT = Path(__file__).parents[2]


class Bench:
    """Trainings with a stand-in job; 2.7.1 and 2.8.0 train the same model, 2.7.0 another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_inputs(folder)
        texts = {f"p{n}": f"Passage {n} of some that are long enough" for n in range(10)}
        (folder / "ten.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
        (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
        (folder / "qrels.txt").write_text("q1 0 p9 1\nq2 0 p3 1\n")
        (folder / "triples.jsonl").write_text('["q1", "p9", "p1"]\n["q2", "p3", "p9"]\n' * 4)
        self.sites = make_sites(folder / "made", seconds=0.01)

    def selection(self, **changes: Any) -> Selection:
        return Selection(**{
            "matrix_path": ROOT / "matrix.yaml", "home": self.folder / "home", "device": "cpu", "threads": 1,
            "collection": str(self.folder / "ten.jsonl"), "checkpoint": str(self.folder / "ck"), "job": "train",
            "queries": str(self.folder / "queries.jsonl"), "triples": str(self.folder / "triples.jsonl"),
            "maxsteps": 4, "bsize": 2, "sites": Path(self.sites[1]), "site_python": Path(self.sites[3]), **changes,
        })  # fmt: skip

    def experiment(self, **changes: Any) -> Experiment:
        return Experiment(self.selection(**changes))

    def run(self, *versions: str, **changes: Any) -> list[Cell]:
        experiment = self.experiment(**changes)
        plan = plan_cells(experiment, versions, {})
        cells = LocalExecutor(()).run(experiment, plan, Board([]), evict_after=False)
        assert all(cell.outcome == "ok" for cell in cells), [cell.reason for cell in cells]
        return cells


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("trainings"))


@pytest.fixture(scope="module")
def own(bench: Bench) -> dict[str, Cell]:
    return {cell.version: cell for cell in bench.run("2.7.0", "2.7.1", "2.8.0")}


def test_a_cell_says_what_it_was_trained_from_and_how(own):
    spec = own["2.8.0"].spec

    assert (spec.job, spec.queries.queries, spec.triples.name, spec.triples.triples) == ("train", 2, "triples", 8)
    assert spec.label == "2.8.0"
    wanted = {"maxsteps": 4, "bsize": 2, "nway": 2, "lr": 3e-6, "warmup": None, "doc_maxlen": 300, "query_maxlen": 32}
    assert {name: spec.settings[name] for name in wanted} == wanted
    assert not {"capture", "full_steps", "nbits"} & spec.settings.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"maxsteps": 3}, {"bsize": 1}, {"accumsteps": 2}, {"lr": 1e-5}, {"warmup": 0}, {"warmup": 2},
        {"triples": None, "qrels": "qrels.txt"},
    ],
)  # fmt: skip
def test_whatever_changes_what_is_trained_changes_the_key_and_the_set(bench, own, change):
    change = {name: str(bench.folder / value) if name == "qrels" else value for name, value in change.items()}
    other = bench.experiment(**change).spec("2.8.0")

    assert other.key != own["2.8.0"].key
    assert other.group != own["2.8.0"].group


def test_what_changes_nothing_changes_no_key(bench, own):
    assert bench.experiment(capture="final").spec("2.8.0").key == own["2.8.0"].key
    renamed = bench.folder / "others.jsonl"
    renamed.write_text((bench.folder / "triples.jsonl").read_text() + '["q1", "p1", "p2"]\n')
    assert bench.experiment(triples=str(renamed)).spec("2.8.0").key == own["2.8.0"].key


def test_a_job_is_given_rows_of_queries_and_passages_and_the_steps_to_keep(bench, tmp_path):
    inputs = bench.experiment().inputs("2.8.0")
    request = replace(inputs, full_steps=(1,)).write(tmp_path)

    queries, passages, triples = (
        [json.loads(line) for line in Path(request[name]).read_text().splitlines()]
        for name in ("queries", "passages", "triples")
    )
    assert queries == [{"qid": "0", "text": "one?"}, {"qid": "1", "text": "two?"}]
    assert triples == [[0, 9, 1], [1, 3, 9]] * 4
    assert passages[9] == "Passage 9 of some that are long enough"
    assert request["full_steps"] == [1]
    assert str(bench.folder) not in json.dumps(inputs.sources)


def test_a_comparison_says_in_which_step_a_training_begins_to_differ(bench, own):
    store = bench.experiment().store
    a, b = (StoredCell(store, own[version]) for version in ("2.7.0", "2.7.1"))
    rows = {one.name: one for one in mark(compare_sources(a, b), a, b).artifacts}

    assert rows["batch"].bit_equal
    assert rows["gradients"].facts["first_step"] == rows["weights"].facts["first_step"] == 1
    assert rows["gradients"].facts["first_parameters"] == ["linear.weight"]
    assert rows["trained"].facts["largest_parameter"] == "bert.x"
    # The scores differ one step later, and are no origin although nothing that they are computed from differs there.
    assert {name for name, one in rows.items() if one.place is not None and one.place.change.value == "origin"} == {
        "gradients"
    }
    again = mark(compare_sources(b, StoredCell(store, own["2.8.0"])), b, StoredCell(store, own["2.8.0"]))
    assert all(one.bit_equal for one in again.artifacts)


def test_digests_keep_the_tables_themselves(bench):
    (cell,) = bench.run("2.7.1", capture="digests", maxsteps=3)

    assert {name for name, one in cell.artifacts.items() if one.stored} == set(cell.artifacts)
    assert {"batch", "gradients", "weights", "loss", "trained"} <= set(cell.artifacts)


def test_stored_trainings_are_chosen_by_their_triples(bench, own):
    bench.run("2.7.0", "2.8.0", triples=None, qrels=str(bench.folder / "qrels.txt"))
    chosen = Chooser(bench.selection()).choose()

    assert {cell.key for cell in chosen.cells} == {cell.key for cell in own.values()}


def test_paths_mean_the_same_in_another_folder(bench, monkeypatch):
    monkeypatch.chdir(bench.folder)

    assert absolute_paths(bench.selection(triples="triples.jsonl")).triples == str(bench.folder / "triples.jsonl")


# ---- the model as a checkpoint


def test_a_trained_model_is_the_base_with_other_weights(bench, own):
    experiment = bench.experiment(checkpoint="trained@2.7.0", job="index")
    files = experiment.checkpoint
    base = bench.experiment().checkpoint

    weights = read_safetensors(files.path / "model.safetensors")
    assert weights["linear.weight"].shape == (16, 8)
    assert np.array_equal(weights["bert.x"].data, np.full((2, 3), 3, np.float32))
    assert {p.name: p.read_bytes() for p in small_files(files.path)} == {
        p.name: p.read_bytes() for p in small_files(base.path)
    }
    assert (files.name, files.dim) == ("trained@2.7.0", base.dim)
    assert files.digest != base.digest
    assert experiment.spec("2.8.0").checkpoint.name == "trained@2.7.0"
    named = bench.experiment(checkpoint=f"trained@{own['2.7.0'].key[:8]}")
    assert named.checkpoint.digest == files.digest


def test_a_trained_model_has_the_lengths_that_it_was_trained_with(bench, tmp_path):
    text = (ROOT / "matrix.yaml").read_text().replace("    nway: 2\n", "    nway: 2\n    query_maxlen: 48\n")
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    (tmp_path / "matrix.yaml").write_text(text)
    there = {"matrix_path": tmp_path / "matrix.yaml", "home": tmp_path / "home"}
    bench.run("2.7.0", **there)

    files = bench.experiment(checkpoint="trained@2.7.0", job="search", triples=None, **there).checkpoint
    assert (files.query_maxlen, files.doc_maxlen) == (48, 300)


def test_models_that_are_equal_are_one_checkpoint_whoever_trained_them(bench, own):
    digests = {version: bench.experiment(checkpoint=f"trained@{version}").checkpoint.digest for version in own}

    assert digests["2.7.1"] == digests["2.8.0"] != digests["2.7.0"]


def test_a_name_that_means_no_model_or_several_is_one_sentence(bench, own, monkeypatch):
    store = bench.experiment().store
    with pytest.raises(UsageError, match=r"trained@2\.6\.0: no training of that name is stored \(2\.7\.0, "):
        trained_cell(store, "2.6.0")
    other = replace(
        own["2.7.0"], key="f" * 32, artifacts={**own["2.7.0"].artifacts, "trained": own["2.8.0"].artifacts["trained"]}
    )
    stored = {one.key: one for one in (*own.values(), other)}
    monkeypatch.setattr(Store, "listed", lambda _store: list(stored.values()))
    monkeypatch.setattr(Store, "get", lambda _store, key: stored[key])
    with pytest.raises(UsageError, match="2 stored trainings have that name, and their models differ") as caught:
        trained_cell(store, "2.7.0")
    assert f"\n  trained@{own['2.7.0'].key[:12]} " in str(caught.value)


def test_a_cell_takes_its_model_along_to_another_store(bench, own, tmp_path):
    target = Store(tmp_path / "store")
    copy_cells(bench.experiment().store, target, [own["2.7.0"]], "final")
    there = target.get(own["2.7.0"].key)
    assert there is not None

    home = replace(bench.experiment().home, root=tmp_path / "home")
    assert trained_checkpoint(home, target, there).digest == (
        bench.experiment(checkpoint="trained@2.7.0").checkpoint.digest
    )
    shutil.rmtree(target.cell_folder(there.key) / MODEL)
    with pytest.raises(UsageError, match="has lost the files of the checkpoint"):
        trained_checkpoint(replace(home, root=tmp_path / "other"), target, there)


def test_a_model_that_is_not_of_its_parameters_is_refused(bench, own, tmp_path):
    cell = own["2.7.0"]
    broken = replace(cell, details={**cell.details, "parameters": cell.details["parameters"][:1]})

    with pytest.raises(UsageError, match="does not have the elements of the parameters"):
        trained_checkpoint(replace(bench.experiment().home, root=tmp_path), bench.experiment().store, broken)
