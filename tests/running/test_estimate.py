"""What a plan takes is estimated from the stored cells that are most like its own, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.running.estimate import Estimate, estimate
from harness.running.plan import Planned
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from harness.words import duration
from tests.support.cell_specs import cell, spec


def of(passages: int, seconds: float, **changes: Any) -> Cell:
    one = spec("2.7.1", **changes)
    own = replace(one, collection=replace(one.collection, digest=f"{passages:08x}", passages=passages))
    return cell(own, details={"wall_seconds": seconds}, artifacts={})


def estimated(store: Store, cells: Iterable[Cell], plan: list[Planned]) -> Estimate | None:
    for one in cells:
        store.put(one)
    return estimate(store, store.listed(), plan, "full")


def planned(passages: int, *, run: bool = True) -> Planned:
    one: CellSpec = spec("2.8.0")
    return Planned(replace(one, collection=replace(one.collection, passages=passages)), None, run, "")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_time_grows_with_the_passages_and_with_the_cells_that_would_run(store):
    plan = [planned(2000), planned(2000), planned(2000, run=False)]
    found = estimated(store, [of(1000, 30.0), of(1000, 50.0, repeat=1)], plan)

    assert found is not None
    assert (found.seconds, found.cells, found.by, found.passages) == (2 * 2 * 40.0, 2, 2, (1000, 1000))


def test_the_nearest_in_size_count_and_no_others(store):
    found = estimated(store, [of(10, 99.0), of(1000, 30.0), of(90_000, 1.0)], [planned(1200)])

    assert found is not None
    assert (found.by, found.passages) == (1, (1000, 1000))


def test_another_device_another_job_and_what_ended_badly_say_nothing(store):
    bad = replace(of(1000, 5.0), outcome="crashed")
    others = [of(1000, 5.0, device="cuda Other 9.0"), of(1000, 5.0, job="search"), bad]

    assert estimated(store, others, [planned(1000)]) is None
    assert estimated(store, [of(1000, 5.0, repeat=1)], [planned(1000, run=False)]) is None


def test_very_many_are_estimated_from_some_of_all_of_them(store):
    found = estimated(store, [of(1000, 30.0 + n % 2, repeat=n) for n in range(120)], [planned(1000)])

    assert found is not None
    assert 30.0 <= found.seconds <= 31.0
    assert 50 <= found.by <= 100


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (720, "12 min"), (12_600, "3.5 h"), (89.9, "90 s")])
def test_a_time_is_said_as_one_says_it(seconds, said):
    assert duration(seconds) == said
