"""What is not repeatable on a machine is found by running it again, and named; a clean machine gets a clean answer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.environments.build import ensure_environment
from harness.environments.doctor import Check, cores_check, cpu_kinds
from harness.environments.interpreter import Interpreter
from harness.explain import repeatability
from harness.explain.noise import Noise
from harness.explain.repeatability import Repeats, Subject, thread_counts
from harness.explain.replay import UNSTABLE, CallVerdict, unstable_calls
from harness.report.repeatability_text import repeatability_checks, repeats_check
from harness.running.experiment import Experiment
from harness.running.selection import Selection
from harness.store.cell import Artifact, Cell
from tests.support.cell_specs import cell, spec
from tests.support.planted import FAULTS, SMALL, VARIABLE, VERSION

NAMES = ("sample_pids", "batches", "D", "centroids_raw")


def _cell(**digests: str) -> Cell:
    artifacts = {name: Artifact(digests.get(name, "same"), "float32", (1,), "intermediate", True) for name in NAMES}
    return cell(spec("2.7.1"), artifacts=artifacts)


def _check(*all_counts: Repeats, of: int = 0) -> Check:
    return repeats_check(all_counts[of], all_counts)


CLEAN = Repeats(1, (_cell(), _cell()))
SOURCE = CallVerdict("operator", "m", "aten.mm", 0, UNSTABLE)
CHANGES = Repeats(2, (_cell(), _cell(batches="x", D="y")), Noise("2.7.1", ("batches", "D"), {"encode": (SOURCE,)}))


def test_equal_runs_are_said_to_be_equal() -> None:
    check = _check(CLEAN)

    assert check.verdict == "ok"
    assert "all 4 artifacts are bit for bit equal" in check.detail


def test_what_changes_between_runs_is_named_with_the_call() -> None:
    check = _check(CHANGES)

    assert check.verdict == "problem"
    assert "2 of 4 artifacts change from run to run, first in encode (operator aten.mm)" in check.detail


def test_threads_are_named_where_one_thread_changes_nothing() -> None:
    assert "With 1 thread nothing changes" in _check(CLEAN, CHANGES, of=1).detail


def test_threads_are_not_named_where_one_thread_changes_as_well() -> None:
    alone = Repeats(1, CHANGES.cells, CHANGES.noise)

    assert "no matter of threads" in _check(alone, CHANGES, of=1).detail


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 8])])
def test_one_thread_the_configured_and_all_are_tried_as_far_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, counts: list[int]
) -> None:
    monkeypatch.setattr(repeatability, "usable_cores", lambda: cores)

    assert thread_counts(2) == counts


CORE = "processor\t: {}\nmodel name\t: A CPU\nflags\t\t: fpu {}\ncpu MHz\t\t: {}.0\n"


def test_cores_differ_by_what_they_can_do_and_not_by_their_clock(tmp_path: Path) -> None:
    same = CORE.format(0, "avx2", 1000) + "\n" + CORE.format(1, "avx2", 2000)
    other = CORE.format(0, "avx2", 1000) + "\n" + CORE.format(1, "avx512f", 1000)
    (tmp_path / "cpuinfo").write_text(other)

    assert (cpu_kinds(same), cpu_kinds(other)) == (1, 2)
    assert cores_check(tmp_path / "cpuinfo").verdict == "problem"
    assert cores_check(tmp_path / "not there").verdict == "warning"


def test_the_innermost_call_that_changes_in_any_repeat_is_the_source(tmp_path: Path) -> None:
    calls = [("module", "dense", 1), ("operator", "aten.mm", 0), ("operator", "aten.add", 0)]
    (tmp_path / "calls.json").write_text(
        json.dumps([{"kind": k, "module": "", "name": n, "number": 0, "inner": i} for k, n, i in calls])
    )
    folders = []
    for number, statuses in enumerate((["equal"] * 3, ["different", "different", "equal"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "replay.json").write_text(json.dumps([{"status": status} for status in statuses]))
        folders.append(folder)

    assert [verdict.name for verdict in unstable_calls(tmp_path, *folders)] == ["aten.mm"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """An environment, and an experiment with short passages in small batches."""
    home = os.environ.get("HARNESS_HOME")
    experiment = Experiment(
        Selection(
            home=Path(home) if home else None, collection="embedded", checkpoint="embedded", limit=20, device="cpu",
            capture="full",
        )
    )  # fmt: skip
    experiment.job = experiment.job.model_copy(update=SMALL)
    e = experiment
    return Subject(e, VERSION, Interpreter(ensure_environment(e.home, e.matrix, e.locks, VERSION, "cpu").python))


@pytest.mark.integration
def test_a_clean_machine_repeats_and_an_operator_that_is_not_deterministic_is_named(subject: Subject) -> None:
    faulty = Subject(
        subject.experiment,
        VERSION,
        Interpreter(subject.interpreter.python, FAULTS),
        {VARIABLE: "nondeterministic kernel"},
    )
    (clean,) = repeatability_checks(repeatability.repeatability(subject, 2, [2]))
    (found,) = repeatability_checks(repeatability.repeatability(faulty, 2, [2]))

    assert clean.verdict == "ok"
    assert found.verdict == "problem"
    assert "first in encode (operator aten.gelu.default)" in found.detail
    assert "no matter of threads" in found.detail
