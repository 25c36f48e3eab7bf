"""Each fault ends as the table says it does; and the table would say so if one did not."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.environments.build import ensure_environment
from harness.environments.interpreter import Interpreter
from harness.running.experiment import Experiment
from harness.running.runner import run_cell
from harness.running.selection import Selection
from harness.store.audit import verify
from harness.store.cell import Cell
from tests.reliability.__main__ import in_table, main
from tests.reliability.bench import HIT, Bench, Fault, Truth, try_fault, undisturbed
from tests.reliability.cases import CASES, Answer, Case, ask, attributes, before_archive, flip, try_case, two_saves
from tests.reliability.faults import FAULTS
from tests.reliability.slurm import FAULTS as ON_SLURM
from tests.support.pt_files import write_index
from tests.support.torch_oracle import LoadOracle

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
HERE = [fault for fault in FAULTS if fault not in ON_SLURM]
"""Faults on Slurm are tests of their own, in test_slurm.py."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return undisturbed(tmp_path_factory.mktemp("whole") / "b")


@pytest.mark.parametrize("fault", HERE, ids=lambda fault: fault.name.replace(" ", "-"))
def test_nothing_is_lost_and_nothing_wrong_is_reported_as_right(fault: Fault, truth: Truth, tmp_path: Path) -> None:
    row = try_fault(fault, tmp_path / "b", truth)

    if row.verdict == "skipped":
        pytest.skip(row.seen)
    assert row.verdict == "yes", row.seen


def _wrong_tensors(bench: Bench) -> str:
    """A job that ends well with another version's index: nobody could tell, but for the undisturbed sweep."""
    bench.inject("encode", "index.__globals__['version'] = '2.6.0'")
    bench.sweep()
    return "nothing"


def _raises(_bench: Bench) -> str:
    raise ValueError("a mistake")


@pytest.mark.parametrize(
    ("run", "words"), [(_wrong_tensors, f"{HIT} is ok with other tensors"), (_raises, "ValueError: a mistake")]
)
def test_a_fault_that_does_not_end_as_it_should_is_said(run, words, truth: Truth, tmp_path: Path) -> None:
    row = try_fault(Fault("planted", "", "", run), tmp_path / "b", truth)

    assert row.verdict == "NO"
    assert words in row.seen
    assert in_table(row).endswith("| NO |")


def test_the_command_prints_the_table_and_fails_on_a_fault_that_is_not_as_expected(monkeypatch, capsys) -> None:
    from tests.reliability import __main__ as command

    monkeypatch.setattr(
        command, "FAULTS", [Fault("planted", "how", "what", _raises), Fault("harmless", "", "", lambda _b: "")]
    )

    assert main(["harmless"]) == 0
    assert main([]) == 1
    out = capsys.readouterr().out
    assert "| planted | how | what | ValueError: a mistake | NO |" in out
    assert "2 faults: 1 as expected, 1 not, 0 skipped." in out


@pytest.mark.parametrize(("what", "all_of_them"), [("faults", FAULTS), ("cases", CASES)])
def test_the_page_has_a_row_for_each_and_all_are_as_expected(what: str, all_of_them: Sequence[Fault | Case]) -> None:
    head = {"faults": "fault", "cases": "case"}[what]
    (table,) = re.findall(rf"^\| {head} \|.*\n\|[-|:]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| ([^|]+) \|.*\| (yes|NO|skipped) \|$", table, re.MULTILINE)

    assert [name for name, _verdict in rows] == [one.name for one in all_of_them]
    assert {verdict for _name, verdict in rows} == {"yes"}
    assert len({name for name, _verdict in rows}) == len(rows) >= 25
    assert f"{len(rows)} {what}: {len(rows)} as expected, 0 not, 0 skipped." in PAGE


def test_the_files_of_the_cases_are_to_torch_what_the_cases_say(torch_interpreter: Path, tmp_path: Path) -> None:
    oracle = LoadOracle(torch_interpreter)

    def loaded(change: Callable[[Path, Path], object], *names: str) -> list[tuple[Any, Any]]:
        """What torch reads of A's and of B's files, B being changed."""
        a, b = (tmp_path / change.__name__ / one for one in "AB")
        for one in (a, b):
            write_index(one)
        change(a, b)
        return [(oracle.load(a / f"{name}.pt")[0], oracle.load(b / f"{name}.pt")[0]) for name in names]

    def flipped(_a: Path, b: Path) -> None:
        flip(b / "centroids.pt")

    assert all(a == b for a, b in loaded(attributes, "centroids", "avg_residual"))
    assert all(isinstance(b, str) for _, b in loaded(before_archive, "0.codes", "1.codes"))
    for change, name in ((two_saves, "0.codes"), (flipped, "centroids")):
        ((a, b),) = loaded(change, name)
        assert isinstance(b, list)  # it loads without a word
        assert a != b
    oracle.close()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name.replace(" ", "-"), marks=[pytest.mark.integration] if case.built else [])
        for case in CASES
    ],
)
def test_a_case_that_was_answered_falsely_is_answered_truly(case: Case, tmp_path: Path) -> None:
    row = try_case(case, tmp_path / "c")

    if row.verdict == "skipped":
        pytest.skip(row.seen)
    assert row.verdict == "yes", row.seen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": 1}, "exit code 2"),
        ({"says": ["bit for bit"]}, "'bit for bit' is not said"),
        ({"never": "is neither"}, "'is neither' is said"),
    ],
)
def test_an_answer_that_is_not_the_truth_is_said(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    def nothing(folder: Path) -> Answer:
        return ask(folder, "compare", "A", "B")

    case = Case("planted", "", "", nothing, 2, ["is neither a ColBERT index directory"])
    assert try_case(case, tmp_path / "right").verdict == "yes"
    row = try_case(replace(case, **changes), tmp_path / "c")

    assert row.verdict == "NO"
    assert words in row.seen


# Runs the worker as `-m harness.worker` does, and stays at the start of one phase until it is killed: over 20 passages
# a phase can be shorter than the time between two looks of the supervisor.
LINGER = """
import contextlib, signal, sys
from harness.worker import __main__ as worker

timed = worker.Phases.__call__

@contextlib.contextmanager
def linger(self, name):
    with timed(self, name):
        if name == open(__file__ + ".phase").read():
            signal.pause()
        yield

worker.Phases.__call__ = linger
sys.argv = sys.argv[sys.argv.index("harness.worker"):]
sys.exit(worker.main(sys.argv))
"""


@pytest.mark.integration
def test_the_real_worker_is_killed_at_each_of_its_phases(tmp_path: Path) -> None:
    """With real torch and colbert-ai over 20 passages; a run after each kill has the bits of one before any."""
    base = Path(os.environ.get("HARNESS_HOME") or ROOT / ".harness").resolve()
    home = tmp_path / "home"
    home.mkdir()
    (home / "envs").symlink_to(base / "envs")
    (home / "cache").symlink_to(base / "cache")
    e = Experiment(Selection(home=home, collection="embedded", checkpoint="embedded", limit=20, device="cpu"))
    python = ensure_environment(e.home, e.matrix, e.locks, "2.8.0", "cpu").python
    lingering = tmp_path / "bin" / "python"
    lingering.parent.mkdir()
    lingering.with_suffix(".py").write_text(LINGER)
    lingering.write_text(f'#!/bin/sh\nexec "{python}" "{lingering.with_suffix(".py")}" "$@"\n')
    lingering.chmod(0o755)

    def run(deadly: str = "") -> Cell:
        lingering.with_suffix(".py.phase").write_text(deadly)

        def on_phase(phase: str) -> None:
            if phase == deadly:
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if "harness.worker" in process.cmdline():
                            process.kill()

        return run_cell(
            e.home, e.store, e.spec("2.8.0"), Interpreter(lingering if deadly else python), e.inputs("2.8.0"),
            device_kind="cpu", capture="final", deadline=600, on_phase=on_phase,
        )  # fmt: skip

    whole = run()
    assert whole.outcome == "ok", whole.reason
    for phase in ("import", "load", "sample", "train", "encode", "finalize"):
        cell = run(phase)
        assert (cell.outcome, cell.phase, cell.artifacts) == ("crashed", phase, {}), cell.reason
        assert "SIGKILL" in cell.reason

    again = run()
    assert {name: a.digest for name, a in again.artifacts.items()} == {n: a.digest for n, a in whole.artifacts.items()}
    assert verify(e.store).findings == ()
