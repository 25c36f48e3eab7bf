"""Planted faults in a real environment are named where they are, no innocent package is blamed, and a guilty one is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.explain.locate import locate
from harness.explain.replay import read_calls
from harness.explain.repro import run_script, write_repros
from tests.support.planted import CASES, FAULTS, Case, Planter
from tests.support.scripts import imported

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FEW = [
    case
    for case in CASES
    if case.comes_with_package or case.fault in {"unstable sort, patched in Python", "one linear by one ULP"}
]


@pytest.fixture(scope="module")
def planter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planter]:
    """Two environments, and two runs without a fault."""
    home = os.environ.get("HARNESS_HOME")
    made = Planter(Path(home) if home else None, tmp_path_factory.mktemp("planted"))
    yield made
    made.close()


def test_a_against_a_differs_in_nothing(planter: Planter, tmp_path: Path) -> None:
    found = locate(planter.against_itself(), tmp_path)

    assert not found.diverged
    assert found.findings == ()


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.fault + (" with package" * case.comes_with_package))
def test_a_planted_fault_is_named_and_only_a_package_that_brings_it_is_blamed(planter: Planter, case: Case) -> None:
    answer = planter.answer(case)

    assert answer.right, (answer.said, answer.blamed)


def test_a_script_of_torch_alone_shows_in_both_environments_what_was_located(planter: Planter, tmp_path: Path) -> None:
    pair = planter.pair("gelu kernel")
    spec = pair.b.cell.spec
    variables = {**spec.environment, "HARNESS_TEST_FAULT_AFTER": "torch"}
    cell = replace(pair.b.cell, spec=replace(spec, environment=variables))
    pair = replace(pair, b=replace(pair.b, cell=cell))
    folder = tmp_path / "repro"
    lines: list[str] = []
    inputs: list[int] = []

    def write(finding: object, recorded: Path, in_b: Path) -> None:
        lines.extend(write_repros(pair, finding, recorded, in_b, folder))  # type: ignore[arg-type]
        calls = [call for call in read_calls(recorded) if call["name"] == "aten.gelu.default"]
        inputs.extend((recorded / "tensors" / f"{c['args']['tuple'][0]['tensor']}.safetensors").stat().st_size
                      for c in calls)  # fmt: skip

    locate(pair, tmp_path / "scratch", inherited=False, on_recording=write)
    (script,) = folder.glob("*.py")
    printed = {side.cell.version: run_script(pair, side, script) for side in (pair.a, pair.b)}

    assert f"Repro {script} shows the difference:" in lines
    assert ": 0 of " in printed[pair.a.cell.version]
    assert ": 0 of " not in printed[pair.b.cell.version]
    assert " differ from torch " in printed[pair.b.cell.version]
    assert imported(script.read_text(encoding="utf-8")) == {"os", "torch"}
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    assert 0 < script.with_suffix(".bin").stat().st_size < min(inputs) / 10


_RECORD = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import torch
import planted
from colbert.indexing import collection_indexer
from harness.worker.recording import Recorder, Shelf
planted.plant(sys.argv[4], collection_indexer)
codes = torch.arange(1000) * 7 % 9
step = lambda given: given.sort().indices
with torch.no_grad():
    plain = step(codes)
    recorder = Recorder(Shelf(sys.argv[3]), {})
    with recorder.recording():
        recorded = recorder.call("step", "sort", step, (codes,), {})
print(json.dumps([torch.equal(plain, recorded), [f"{call['kind']} {call['name']}" for call in recorder.calls]]))
"""


@pytest.mark.parametrize(
    ("fault", "inner"),
    [
        ("unstable sort", ["operator aten.sort.default"]),
        (
            "unstable sort, patched in Python",
            ["operator aten.flip.default", "operator aten.sort.default", "operator aten.rsub.Scalar"],
        ),
    ],
)
def test_the_recorder_changes_nothing_whether_a_kernel_or_a_python_function_was_replaced(
    planter: Planter, tmp_path: Path, fault: str, inner: list[str]
) -> None:
    done = subprocess.run(
        [str(planter.pythons["2.7.1"]), "-W", "ignore", "-c", _RECORD, str(ROOT), str(FAULTS), str(tmp_path), fault],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    equal, calls = json.loads(done.stdout.splitlines()[-1])

    assert equal
    assert calls == ["step sort", "function torch.Tensor.sort", *inner]
