"""Locate with real environments: A against A names nothing, and three planted faults are named where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.locate import locate
from tests.planted import CASES, Case, Planter

pytestmark = pytest.mark.integration

FEW = [case for case in CASES if case.fault in {"gelu kernel", "k-means seed", "one linear by one ULP"}]


@pytest.fixture(scope="module")
def planter(tmp_path_factory: pytest.TempPathFactory) -> Planter:
    """An environment, and two runs of it without a fault."""
    home = os.environ.get("HARNESS_HOME")
    return Planter(Path(home) if home else None, tmp_path_factory.mktemp("planted"))


def test_a_against_a_differs_in_nothing(planter: Planter, tmp_path: Path) -> None:
    found = locate(planter.pair(""), tmp_path)

    assert not found.diverged
    assert found.findings == ()


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.fault)
def test_a_planted_fault_is_named_and_no_package_is_blamed(planter: Planter, case: Case) -> None:
    answer = planter.answer(case)

    assert answer.right, answer.said
    assert answer.blamed == ()
