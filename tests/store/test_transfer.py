"""Cells travel between stores whole, or say why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import UsageError
from harness.store.audit import verify
from harness.store.cell import Cell
from harness.store.store import Store
from harness.store.transfer import copy_cells
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import spec


def a_cell(store: Store, key: str = "k" * 32) -> Cell:
    artifacts = {}
    for name, values in (("centroids", [1.0, 2.0]), ("embs_0", [3.0, 4.0])):
        tensor = Tensor.of(np.array(values, dtype=np.float16))
        kind = "final" if name == "centroids" else "intermediate"
        artifacts[name] = store.keep_tensor(tensor, kind, stored=True)
    return store.put(
        Cell(key=key, group="g" * 32, spec=spec("2.5.0"), outcome="ok", capture="full", artifacts=artifacts)
    )


def test_all_tensors_arrive_with_their_cell(tmp_path: Path) -> None:
    """A cell that was copied with everything reads the same at its destination."""
    source, target = Store(tmp_path / "a"), Store(tmp_path / "b")
    cell = a_cell(source)

    copied, objects = copy_cells(source, target, [cell], "all")

    assert (copied, objects) == (1, 2)
    assert target.get(cell.key) == cell
    arrived = target.load(cell.artifacts["embs_0"])
    assert arrived.digest() == cell.artifacts["embs_0"].digest


def test_what_does_not_travel_is_known_by_its_digest(tmp_path: Path) -> None:
    """With `final`, intermediates keep digest, dtype and shape, and say that they are not stored."""
    source, target = Store(tmp_path / "a"), Store(tmp_path / "b")
    cell = a_cell(source)

    copy_cells(source, target, [cell], "final")

    found = target.get(cell.key)
    assert found is not None
    assert found.artifacts["centroids"].stored
    assert not found.artifacts["embs_0"].stored
    assert found.artifacts["embs_0"].digest == cell.artifacts["embs_0"].digest


def test_copying_twice_copies_nothing_and_a_second_copy_may_add_tensors(tmp_path: Path) -> None:
    """A cell that is there stays, unless the copy brings tensors that it lacks."""
    source, target = Store(tmp_path / "a"), Store(tmp_path / "b")
    cell = a_cell(source)
    copy_cells(source, target, [cell], "final")

    assert copy_cells(source, target, [cell], "final") == (0, 0)
    assert copy_cells(source, target, [cell], "all") == (1, 1)
    assert copy_cells(source, target, [cell], "none") == (0, 0)


def test_a_cell_that_ended_well_stays_where_one_that_did_not_arrives(tmp_path: Path) -> None:
    """A night's failure on another machine takes nothing away here, and a store with attempts travels without them."""
    source, target = Store(tmp_path / "a"), Store(tmp_path / "b")
    good = a_cell(target)
    bad = source.put(replace(good, outcome="crashed", artifacts={}))

    assert copy_cells(source, target, [bad], "all") == (0, 0)
    assert target.get(good.key) == good
    assert target.attempts(good.key) == []

    target.put(bad)
    third = Store(tmp_path / "c")
    assert copy_cells(target, third, target.cells(), "all") == (1, 2)
    assert verify(third).findings == ()
    assert third.attempts(good.key) == []


def test_a_damaged_tensor_is_not_copied(tmp_path: Path) -> None:
    """A tensor whose bytes changed since it was stored gets a sentence, and its cell does not arrive."""
    source, target = Store(tmp_path / "a"), Store(tmp_path / "b")
    cell = a_cell(source)
    path = source.object_path(cell.artifacts["centroids"].digest)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)

    with pytest.raises(UsageError, match="damaged"):
        copy_cells(source, target, [cell], "all")

    assert target.cells() == []
