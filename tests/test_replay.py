"""Planted faults in a real environment are named where they are, no innocent package is blamed, and a guilty one is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.locate import locate
from tests.planted import CASES, FAULTS, Case, Planter

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent
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
