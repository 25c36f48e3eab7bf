"""Environments brought as site folders give the same answers as those built here, and a job survives a broken cuDNN."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness.artifacts.graph import Place, origins
from harness.environments.build import Environment, ensure_environment
from harness.explain import locate as locating
from harness.explain import requests
from harness.explain.laboratory import Laboratory
from harness.explain.locate import Location, locate
from harness.explain.pair import Pair, prepare_pair
from harness.explain.probing import StepsAlone
from harness.explain.requests import step_request
from harness.explain.units import AS_A, AS_B, Unit
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from harness.running.experiment import Experiment
from harness.running.job import worker_copy
from harness.running.selection import Selection

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
OLD, NEW = MATRIX.quickstart.versions[:2]


@pytest.fixture(scope="module")
def environments() -> dict[str, Environment]:
    """Two environments, built if they are not there yet."""
    base = Home(Path(os.environ.get("HARNESS_HOME") or ROOT / ".harness").resolve())
    return {version: ensure_environment(base, MATRIX, ROOT / "locks", version, "cpu") for version in (OLD, NEW)}


@pytest.fixture(scope="module")
def experiment(environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The embedded collection's first passages, with the environments as site folders and a store of its own."""
    made = tmp_path_factory.mktemp("brought")
    base = environments[OLD].path.parent.parent
    (made / "sites").mkdir()
    (made / "cache").symlink_to(base / "cache")
    for version, environment in environments.items():
        (site,) = environment.path.glob("lib/python3*/site-packages")
        (made / "sites" / version).symlink_to(site)
    python = environments[OLD].python.resolve()
    return Experiment(
        Selection(
            ROOT / "matrix.yaml", made, "embedded", "embedded", 20, "cpu", capture="full", sites=made / "sites",
            site_python=python,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(experiment: Experiment) -> Pair:
    return prepare_pair(experiment, OLD, NEW, repeats=0)


def _only_encode(pair: Pair, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    def only_encode(places: Iterable[Place], **options: bool) -> dict[str, tuple[str, ...]]:
        return {step: names for step, names in origins(places, **options).items() if step == "encode"}

    monkeypatch.setattr(locating, "origins", only_encode)
    return locate(pair, folder)


def test_a_batch_made_again_from_texts_gives_the_job_s_own_rows_and_the_same_origin(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _only_encode(pair, tmp_path / "kept", monkeypatch)
    real = requests._first_differing

    # As if the first outer batch were equal, as it can be in a collection of several.
    monkeypatch.setattr(
        requests, "_first_differing", lambda pair, *names: None if names == ("batches",) else real(pair, *names)
    )
    made = _only_encode(pair, tmp_path / "made", monkeypatch)

    (finding,) = made.findings
    assert finding.gates["the step alone = the job's artifact"]
    assert finding.gates["A and B make the same batch"]
    assert "local_sample_embs" in finding.request["where"]
    assert {v.name for _step, v in made.origins} == {v.name for _step, v in kept.origins} != set()


def test_everything_exchanged_is_the_other_side_and_a_package_that_computes_nothing_changes_nothing(
    experiment: Experiment, pair: Pair, tmp_path: Path
) -> None:
    changed = experiment.lock(OLD).packages.keys() | experiment.lock(NEW).packages.keys()
    request, _outputs = step_request(pair, "encode", ["batches"], tmp_path)
    laboratory = Laboratory(experiment, pair, StepsAlone(pair.bench, {"encode": request}), lambda _text: None)
    shown, _why = laboratory.shown()
    observe = laboratory.observe("encode", shown["encode"])

    everything = [Unit("everything", tuple(sorted(changed)))]
    assert observe("B", everything).result == AS_A
    assert observe("A", everything).result == AS_B
    assert observe("B", [Unit("triton", ("triton",))]).result == AS_B
    assert not list(experiment.home.environments.glob("counterfactual-*"))


_BROKEN = """
import json, os
import torch
from harness.worker import provenance
from harness.worker.notes import Notes
torch.__config__.show = os.abort
torch.backends.cudnn.version = os.abort
found = provenance.collect({"device": "cuda"}, Notes())
print(json.dumps([found["torch_config"], found["cudnn"]]))
"""


def test_a_cudnn_that_aborts_when_it_is_asked_does_not_end_the_job(experiment: Experiment, pair: Pair) -> None:
    interpreter = pair.b.interpreter()
    worker = worker_copy(experiment.home)
    assert interpreter.site is not None
    environment = {"PYTHONPATH": f"{worker}{os.pathsep}{interpreter.site}", "PATH": "/usr/bin:/bin"}

    done = subprocess.run(
        [str(interpreter.python), "-c", _BROKEN], env=environment, capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout.splitlines()[-1]) == [None, None]
