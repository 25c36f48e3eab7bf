"""What is only recorded of a job: a failure is a note, unless it is the job's own trouble."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.artifacts.comparison import compare_sources
from harness.artifacts.graph import Change
from harness.explain.locate import look
from harness.explain.marks import mark
from harness.explain.pair import Pair, Side
from harness.home import Home
from harness.report.comparison_text import text
from harness.report.location_text import sentences
from harness.running.job import Workbench
from harness.store.cell import Cell
from harness.store.repeats import noise_floor
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.profiles import DEFAULT
from harness.tensors.tensor import Tensor
from harness.worker.notes import Notes
from harness.worker.outcomes import Ended
from tests.support.cell_specs import cell, spec


def fails(error: Exception) -> Any:
    def function(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return function


def test_a_recording_that_fails_is_noted_by_name_in_one_line_and_the_first_reason_stays() -> None:
    notes = Notes()
    with notes.recording("D", "batches"):
        fails(RuntimeError("first\nmore"))()
    with notes.recording("D"):
        fails(MemoryError("second"))()

    assert notes.reasons == {"D": "RuntimeError: first", "batches": "RuntimeError: first"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "D.safetensors"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        # As safetensors says it, in a class of its own.
        RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        Ended("unsupported", "known"),
    ],
    ids=str,
)
def test_a_full_disk_and_a_failed_gpu_stay_what_they_are(error: Exception) -> None:
    notes = Notes()

    with pytest.raises(type(error)), notes.recording("D"):
        raise error
    assert notes.reasons == {}


def test_facts_are_asked_for_one_by_one_and_must_be_json() -> None:
    notes = Notes()
    facts = {"a": lambda: 1, "b": fails(OSError("gone")), "c": object, "d": lambda: [2]}

    assert notes.gather("provenance", facts) == {"a": 1, "d": [2]}
    assert set(notes.reasons) == {"provenance.b", "provenance.c"}


def test_a_hook_wraps_and_puts_back_and_a_point_that_does_not_exist_is_a_note() -> None:
    notes, root = Notes(), SimpleNamespace(inner=SimpleNamespace(double=lambda n: 2 * n))
    original = root.inner.double

    with notes.hook(("x",), root, "inner.double", lambda f: lambda n: f(n) + 1):
        assert root.inner.double(3) == 7
    assert root.inner.double is original
    for at in (root, "no.such.module"):
        with notes.hook(("y",), at, "inner.gone", lambda f: f):
            done = True
    assert done
    assert set(notes.reasons) == {"y"}


def test_what_the_job_raises_inside_a_hook_is_not_swallowed() -> None:
    notes, root = Notes(), SimpleNamespace(job=fails(ValueError("the job's own")))

    with pytest.raises(ValueError, match="own"), notes.hook(("x",), root, "job", lambda f: f):
        root.job()
    assert notes.reasons == {}


VALUES = {"D": 1, "centroids_raw": 2, "centroids": 3}
LACKING = {name: value for name, value in VALUES.items() if name != "centroids_raw"}
REASONS = {"centroids_raw": "RuntimeError: planted", "provenance.cpu": "OSError: gone"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def ended(
    store: Store, version: str, values: dict[str, int], reasons: dict[str, str] | None = None, repeat: int = 0
) -> Cell:
    tensors = {name: Tensor.of(np.full((2, 2), value, np.float32)) for name, value in values.items()}
    artifacts = {name: store.keep_tensor(tensor, "final", stored=True) for name, tensor in tensors.items()}
    details = {"not_captured": reasons} if reasons else {}
    return cell(spec(version, repeat=repeat), artifacts=artifacts, details=details)


def test_a_cell_gives_the_reasons_of_artifacts_and_keeps_those_of_facts_in_its_details(store: Store) -> None:
    stored = store.get(store.put(ended(store, "2.8.0", LACKING, REASONS)).key)

    assert stored is not None
    assert stored.not_captured == {"centroids_raw": "RuntimeError: planted"}
    assert stored.details["not_captured"] == REASONS


def test_an_artifact_that_a_repeat_could_not_record_is_no_noise(store: Store) -> None:
    first, again = ended(store, "2.8.0", VALUES), ended(store, "2.8.0", {**LACKING, "D": 9}, REASONS, repeat=1)

    assert noise_floor(first, [again]) == frozenset({"D"})


def test_an_artifact_that_one_side_could_not_record_is_missing_and_no_origin(store: Store) -> None:
    """What is computed from it is traced to what it was computed from itself."""
    changed = {**LACKING, "D": 9, "centroids": 8}
    a, b = (StoredCell(store, one) for one in (ended(store, "2.7.1", VALUES), ended(store, "2.8.0", changed, REASONS)))
    comparison = mark(compare_sources(a, b, [DEFAULT]), a, b)
    rows = {one.name: one for one in comparison.artifacts}

    assert rows["centroids_raw"].status == "missing_b"
    assert rows["centroids_raw"].unknown
    assert not rows["centroids_raw"].divergent
    assert rows["centroids_raw"].to_json()["bit_equal"] is None
    assert "B has no record of it: RuntimeError: planted" in text(comparison)
    assert rows["centroids_raw"].place is None
    assert b.unrecorded("centroids_raw") == "RuntimeError: planted"
    assert {name: one.place.change for name, one in rows.items() if one.place} == {
        "D": Change.ORIGIN,
        "centroids": Change.INHERITED,
    }


def test_locate_leaves_it_out_of_the_tree_and_says_why(store: Store) -> None:
    changed = {**LACKING, "D": 9, "centroids": 8}
    cells = ended(store, "2.7.1", VALUES), ended(store, "2.8.0", changed, REASONS)
    a, b = (Side(one, fails(AssertionError("nothing is run"))) for one in cells)
    location = look(Pair(a, b, frozenset(), 0, store, Workbench(Home(store.root), store.root)))

    assert [place.name for place in location.places] == ["D", "centroids"]
    assert "2.8.0 has no centroids_raw, which could not be recorded: RuntimeError: planted" in sentences(location)
