"""Faults planted in a training, in a real environment: step, phase and operator are named, or the random stream is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.explain.locate import StepFinding, locate
from harness.explain.repro import write_repros
from tests.support.planted import Planter
from tests.support.planted_training import CASES, TrainCase, planter
from tests.support.scripts import imported

pytestmark = pytest.mark.integration

BLAMED = "gelu backward"
FEW = [case for case in CASES if case.fault in {"dropout draws", "AdamW's eps", "stale moment"} or
       case.comes_with_package]  # fmt: skip


@pytest.fixture(scope="module")
def planting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planter]:
    """Two environments, and two trainings without a fault."""
    home = os.environ.get("HARNESS_HOME")
    made = planter(Path(home) if home else None, tmp_path_factory.mktemp("planted"))
    yield made
    made.close()


def test_a_against_a_differs_in_nothing(planting: Planter, tmp_path: Path) -> None:
    found = locate(planting.against_itself(), tmp_path / "scratch")

    assert not found.diverged
    assert (found.step, found.findings) == (None, ())


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.fault + (" with package" * case.comes_with_package))
def test_a_planted_fault_is_named_and_only_a_package_that_brings_it_is_blamed(
    planting: Planter, case: TrainCase
) -> None:
    answer = planting.answer(case)

    assert answer.right, (answer.said, answer.blamed)


def test_a_script_of_torch_alone_calls_the_backward_operator(planting: Planter, tmp_path: Path) -> None:
    """The fault is in the worker only, so that the script itself shows no difference: that it runs is what is seen."""
    pair = planting.pair(BLAMED)
    lines: list[str] = []

    def write(finding: StepFinding, recorded: Path, in_b: Path) -> None:
        lines.extend(write_repros(pair, finding, recorded, in_b, tmp_path / "repro"))

    locate(pair, tmp_path / "scratch", inherited=False, on_recording=write)
    (script,) = (tmp_path / "repro").glob("*.py")
    text = script.read_text(encoding="utf-8")

    assert script.name == "backward_aten_gelu_backward_default.py"
    assert "torch.ops.aten.gelu_backward.default(" in text
    assert "Found in colbert-ai's training: step 'backward', GeluBackward0 of torch.nn.functional.gelu" in text
    assert any(": 0 of " in line for line in lines)
    assert imported(text) == {"os", "torch"}
    assert len(text.splitlines()) <= 40
