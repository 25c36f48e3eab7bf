"""The worker's job `train` in real environments: colbert-ai's own loop, the stand-in, and what is recorded of it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.home import Home
from harness.running.job import worker_copy, worker_environment
from harness.tensors.safetensors import read_safetensors
from tests.support.digest_oracle import Bits, expected
from tests.support.real_environments import NEW, OLD, ROOT, environments, home
from tests.support.training import PASSAGES, QUERIES, STEPS, TRAIN, Arrays, Trained, Training

__all__ = ["environments", "home"]  # fixtures

pytestmark = pytest.mark.integration

BARE = ROOT / "benchmarks" / "bare_train.py"
DIGESTS = {"gradients", "clipped", "first_moments", "second_moments", "weights"}
ROWS = DIGESTS | {
    "batch", "input_ids", "random_before", "scores", "scale", "gradient_norm", "skipped", "learning_rate", "loss",
}  # fmt: skip
FINAL = {"loss", "trained"}
FULL = STEPS - 1


@pytest.fixture(scope="session")
def training(home: Home, environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(home, environments, tmp_path_factory.mktemp("training"), NEW)


@pytest.fixture(scope="session")
def plain(training: Training) -> Trained:
    found = training.train(capture="full", full_steps=[FULL])
    assert (found.result["outcome"], found.result["not_captured"]) == ("ok", {}), found.result
    return found


def different(a: Arrays, b: Arrays) -> set[str]:
    """The artifacts of both whose bits differ."""
    return {
        name for name in a.keys() & b.keys() if (a[name].dtype, a[name].tobytes()) != (b[name].dtype, b[name].tobytes())
    }


def by_name(found: Trained, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """What an artifact of all parameters holds of each."""
    parts = {}
    for one in found.result["parameters"]:
        size = int(np.prod(one["shape"]))
        parts[one["name"]] = found.arrays[name][one["offset"] : one["offset"] + size].reshape(one["shape"])
    assert sum(part.size for part in parts.values()) == len(found.arrays[name])
    return parts


def progress(log: Path) -> list[str]:
    """The steps and smoothed losses that colbert-ai printed, all digits of them."""
    return re.findall(r"^\[[^\]]*\] (\d+ \d\.\S+)$", log.read_text(), re.MULTILINE)


def test_every_artifact_is_there_with_a_row_for_each_step(plain):
    a, parameters = plain.arrays, plain.result["parameters"]

    assert plain.result["steps"] == STEPS
    assert set(a) == ROWS | FINAL | {f"{name}_{FULL}" for name in (*DIGESTS, "random")}
    assert {len(a[name]) for name in ROWS} == {STEPS}
    assert {a[name].shape for name in DIGESTS} == {(STEPS, len(parameters), 2)}
    assert a["loss"].shape == (STEPS, TRAIN["accumsteps"])
    assert a["scores"].shape == (STEPS, TRAIN["bsize"], TRAIN["nway"])
    assert not (plain.run / "out" / "scratch").exists()


def test_artifacts_agree_with_each_other_as_in_the_loop(training, plain):
    a, micro = plain.arrays, TRAIN["accumsteps"]

    lines = [json.loads(line) for line in Path(training.triples).read_text().splitlines()]
    assert a["batch"].reshape(-1, 1 + TRAIN["nway"]).tolist() == lines[: STEPS * TRAIN["bsize"]]
    scores = a["scores"].astype(np.float64).reshape(STEPS, micro, -1, TRAIN["nway"])
    losses = (np.log(np.exp(scores).sum(-1)) - scores[..., 0]).mean(-1) / micro
    np.testing.assert_allclose(a["loss"], losses, rtol=1e-4, atol=1e-6)
    warmup, most = TRAIN["warmup"], TRAIN["maxsteps"]
    rates = [s / warmup if s < warmup else (most - s) / (most - warmup) for s in range(STEPS)]
    np.testing.assert_allclose(a["learning_rate"], TRAIN["lr"] * np.array(rates))
    assert a["skipped"].tolist() == [0] * STEPS
    assert a["scale"].tolist() == [1.0] * STEPS
    norm = float(np.linalg.norm(a[f"gradients_{FULL}"].astype(np.float64)))
    np.testing.assert_allclose(a["gradient_norm"][FULL], norm, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(a[f"clipped_{FULL}"].astype(np.float64)), min(norm, 2.0), rtol=1e-4)
    assert a[f"weights_{FULL}"].tobytes() == a["trained"].tobytes()
    # What dropout drew: torch's generator moves on in each step, and the others stand still.
    assert len({row.tobytes() for row in a["random_before"][:, 2]}) == STEPS
    assert len({row.tobytes() for row in a["random_before"][:, [0, 1, 3]]}) == 1


def test_digests_are_those_of_the_tensors(plain):
    for name in DIGESTS:
        tensors = by_name(plain, f"{name}_{FULL}")
        for (parameter, values), found in zip(tensors.items(), plain.arrays[name][FULL], strict=True):
            # BERT has a pooler, which ColBERT does not use.
            unused = ".pooler." in parameter and name != "weights"
            bits = None if unused else Bits("float32", values.shape, values.tobytes())
            assert found.tolist() == expected(bits), (name, parameter)


@pytest.mark.parametrize(
    "change", [{"capture": "digests"}, {"capture": "final"}, {"capture": "digests", "ddp": "torch"}],
    ids=["digests", "final", "DistributedDataParallel"],
)  # fmt: skip
def test_neither_what_is_captured_nor_the_stand_in_changes_a_bit(training, plain, change):
    other = training.train(**change)

    assert other.result["outcome"] == "ok", other.result
    assert set(other.arrays) == (FINAL if change["capture"] == "final" else ROWS | FINAL)
    assert different(plain.arrays, other.arrays) == set()


@pytest.mark.parametrize("version", [OLD, NEW])
def test_model_and_losses_are_those_of_bare_colbert_ai(training, plain, version):
    ours = plain if version == NEW else training.train(version)
    out = training.folder / f"bare-{version}"
    (out / "tmp").mkdir(parents=True)
    spec, interpreter = training.experiment.spec(version), Interpreter(training.environments[version].python)
    environment = worker_environment(spec, interpreter, worker_copy(training.home), out, "cpu")
    with (out / "log.txt").open("w") as log:
        command = [str(interpreter.python), str(BARE), str(ours.run / "cell.json"), str(out)]
        done = subprocess.run(command, env=environment, cwd=out, check=False, stdout=log, stderr=log)
    text = (out / "log.txt").read_text()
    assert done.returncode == 0, text[-4000:]

    model = read_safetensors(Path(json.loads(text.splitlines()[-1])["model"]) / "model.safetensors")

    mine = by_name(ours, "trained")
    assert mine.keys() == model.keys()
    assert [name for name in model if model[name].data.tobytes() != mine[name].tobytes()] == []
    assert len(progress(out / "log.txt")) == STEPS
    assert progress(out / "log.txt") == progress(ours.run / "log.txt")


def test_scores_to_be_learned_and_negatives_of_the_batch(training, plain):
    changed = {"use_ib_negatives": True, "accumsteps": 1, "warmup": None, "amp": False}

    found = training.train(triples=training.scored, settings=changed)

    assert (found.result["outcome"], found.result["not_captured"]) == ("ok", {}), found.result
    assert found.arrays["loss"].shape == (STEPS, 1)
    assert found.arrays["batch"].tobytes() == plain.arrays["batch"].tobytes()
    # The same texts, but for the scores that are in a batch now.
    assert (found.arrays["input_ids"] != plain.arrays["input_ids"]).any(axis=1).all()
    np.testing.assert_allclose(found.arrays["learning_rate"], TRAIN["lr"])


def test_a_loss_that_is_no_number_ends_the_job_and_names_its_step(training):
    result = training.train(settings={"lr": 1e30, "warmup": None}).result

    assert (result["outcome"], result["reason"]) == ("invalid_output", "The loss is NaN at step 1.")


def test_triples_that_end_early_end_the_training(training, plain):
    short = training.write("short.jsonl", [[query, query, query + QUERIES] for query in range(TRAIN["bsize"] + 1)])

    found = training.train(triples=short)

    assert (found.result["outcome"], found.result["not_captured"]) == ("ok", {})
    assert found.result["steps"] == 1
    assert {len(found.arrays[name]) for name in ROWS} == {1}
    assert PASSAGES == 2 * QUERIES
    assert found.arrays["trained"].shape == plain.arrays["trained"].shape
