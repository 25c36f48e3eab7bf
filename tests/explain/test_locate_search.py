"""`locate` over searches in a real environment: each planted fault of the searcher is told from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.artifacts.graph import origins
from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.explain.locate import Location, locate
from harness.explain.pair import Pair, Side
from harness.home import Home
from harness.inputs.recipe import known_items
from harness.running.experiment import Experiment
from harness.running.job import workbench
from harness.running.runner import run_cell
from harness.running.selection import Selection
from harness.store.cell import Cell
from tests.support.planted import CachedBench
from tests.support.real_environments import NEW, ROOT, environments, home
from tests.support.searching import FAULTS, PASSAGES, QUERIES, SEARCH, SMALL, TWICE

__all__ = ["environments", "home"]  # fixtures

pytestmark = pytest.mark.integration


class Planter:
    """A search of a small index without a fault, and with one; some passages are there twice, so that scores tie."""

    def __init__(self, home: Home, environments: Mapping[str, Environment], folder: Path) -> None:
        embedded = Experiment(Selection(ROOT / "matrix.yaml", home.root, "embedded", "embedded", PASSAGES, "cpu"))
        texts = list(embedded.passages.texts)
        asked = [text for _place, text in known_items(texts, QUERIES)]
        for name, those in (("passages", texts + texts[:TWICE]), ("queries", asked)):
            lines = (json.dumps({"_id": str(number), "text": text}) for number, text in enumerate(those))
            (folder / f"{name}.jsonl").write_text("\n".join(lines))
        (folder / "home").mkdir()
        for name in ("envs", "cache"):
            (folder / "home" / name).symlink_to(home.root / name)
        self.experiment = e = Experiment(
            Selection(
                ROOT / "matrix.yaml", folder / "home", str(folder / "passages.jsonl"), "embedded", device="cpu",
                threads=1, capture="full", job="search", queries=str(folder / "queries.jsonl"),
            )
        )  # fmt: skip
        e.job = e.job.model_copy(update={name: SEARCH[name] for name in ("k", "ncells", "ndocs")})
        e.index.job = e.index.job.model_copy(update={name: SMALL[name] for name in ("index_bsize", "doc_maxlen")})
        bench = workbench(e)
        (folder / "cache").mkdir()
        self.bench = CachedBench(bench.home, bench.checkpoint, "cpu", 900, cache=folder / "cache")
        self.python, self.scratch = environments[NEW].python, folder / "scratch"
        run_cell(
            e.home, e.store, e.index.spec(NEW), self.interpreter(""), e.index.inputs(NEW), device_kind="cpu",
            capture="final", deadline=900,
        )  # fmt: skip
        # A dozen centroids are kept for the first query, so that each of them matters.
        load = {name: e.store.load(one).data.astype(np.float32) for name, one in self.search("").artifacts.items()}
        best = (load["centroids"] @ load["Q"][0].T).max(axis=1)
        e.job = e.job.model_copy(update={"centroid_score_threshold": float(np.sort(best)[-12])})
        self.a = self.search("")

    def interpreter(self, fault: str) -> Interpreter:
        return Interpreter(self.python, FAULTS if fault else None)

    def search(self, fault: str) -> Cell:
        e = self.experiment
        spec = e.spec(NEW)
        if fault:
            planted = {"HARNESS_TEST_FAULT": fault, "HARNESS_TEST_FAULT_AFTER": "colbert.search.index_storage"}
            spec = replace(spec, environment={**spec.environment, **planted})
        cell = run_cell(
            e.home, e.store, spec, self.interpreter(fault), e.inputs(NEW), device_kind="cpu", capture="full",
            deadline=900,
        )  # fmt: skip
        assert (cell.outcome, cell.not_captured) == ("ok", {}), cell.reason
        return cell

    def located(self, fault: str) -> Location:
        a, b = (Side(cell, partial(self.interpreter, of)) for cell, of in ((self.a, ""), (self.search(fault), fault)))
        return locate(Pair(a, b, frozenset(), 0, self.experiment.store, self.bench), self.scratch)


@pytest.fixture(scope="module")
def planter(home: Home, environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory) -> Planter:
    return Planter(home, environments, tmp_path_factory.mktemp("planter"))


@pytest.mark.parametrize(
    ("fault", "step", "call"),
    [
        # These two steps run no torch, or not by themselves: they are named by what goes in and what comes out.
        ("dropped candidate", "look up cells", None),
        ("threshold off by one centroid", "prune by best tokens", None),
        ("scores rounded to half", "score", "score"),
        ("later ties first", "rank", "torch.Tensor.sort"),
    ],
)
def test_each_planted_fault_of_the_searcher_is_told_from_the_others(planter, fault, step, call):
    found = planter.located(fault)

    assert list(origins(found.places)) == [step]
    # A step that sorts query by query has a call for each; all that differ are the same one.
    assert {(of, verdict.name) for of, verdict in found.origins} == ({(step, call)} if call else set())
    ended = {finding.step: finding for finding in found.findings}
    assert all(finding.trusted for finding in ended.values())
    assert {name for name, finding in ended.items() if finding.outcome != "ok"} <= {
        "look up cells", "prune by best tokens", "prune by all tokens",
    }  # fmt: skip
