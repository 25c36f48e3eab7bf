"""What cannot be exchanged across major versions of CUDA, by the locks themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.environments.changes import changes
from harness.environments.lockfile import FLAVOURS, Lock, difference, lock_path, parse, read_lock
from harness.environments.lockfile import exchanged as exchanged_text
from harness.errors import InfrastructureError
from harness.explain.blame import Answer, Suspects, find, suspects
from harness.explain.bound import bound
from harness.explain.units import AS_A, AS_B, NOT_EXCHANGEABLE, Outcome, Unit
from harness.inputs.matrix import Flavour
from harness.inputs.matrix_file import load_matrix
from harness.report import blame_text
from harness.report.blame_text import sentence
from tests.support.command import run
from tests.support.observers import observer

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
WHOLE = "torch with its CUDA libraries"


@cache
def lock_of(version: str, flavour: Flavour) -> Lock:
    return read_lock(lock_path(ROOT / "locks", version, flavour))


def between(a: str, b: str, flavour: Flavour) -> Suspects:
    """What `blame` would look at; on a GPU with the libraries apart."""
    return suspects(experiment_on(flavour), a, b)


def experiment_on(flavour: Flavour) -> Any:
    """What `blame` asks of an experiment before anything runs."""
    return SimpleNamespace(
        matrix=MATRIX, require=MATRIX.require, lock=lambda version: lock_of(version, flavour),
        brought=lambda _version: None,
        device=SimpleNamespace(kind="cuda" if flavour == "gpu" else "cpu"),
        selection=SimpleNamespace(sites=None, job="index"),
    )  # fmt: skip


def exchanged(base: str, other: str, flavour: Flavour, *units: Unit) -> dict[str, str]:
    """The packages of a counterfactual environment."""
    mine, theirs = (lock_path(ROOT / "locks", version, flavour) for version in (base, other))
    return parse(
        exchanged_text(mine.read_text(), theirs.read_text(), [name for unit in units for name in unit.packages])
    )[0]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_package_is_in_one_unit_and_all_units_are_the_other_environment(flavour):
    for a, b in itertools.permutations(["1.13.1", "2.0.1", "2.1.0", "2.10.0", "2.11.0", "2.13.0", "2.15.0"], 2):
        units = between(a, b, flavour).units
        packages = [name for unit in units for name in unit.packages]

        assert sorted(packages) == sorted(difference(lock_of(a, flavour), lock_of(b, flavour)))
        assert exchanged(a, b, flavour, *units) == lock_of(b, flavour).packages
        for unit in units:
            if unit.parts:
                assert [name for part in unit.parts for name in part.packages] == list(unit.packages)


def _warning(found):
    """The last line, which says what cannot be told apart; empty without one."""
    last = [*blame_text.suspect_lines(found)][-1:]
    return "".join(line for line in last if "can only be exchanged together" in line)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_only_another_cuda_binds(flavour):
    """Torch and each library are units of their own where both are built for the same."""
    for a, b in itertools.pairwise(MATRIX.versions):
        ours, theirs = lock_of(a, flavour), lock_of(b, flavour)
        found = bound(ours, theirs, changes(ours, theirs))

        assert (found is not None) == ((a, b) in {("2.0.1", "2.1.0"), ("2.10.0", "2.11.0")})
        assert bool(_warning(between(a, b, flavour))) == (found is not None)


def test_the_libraries_of_another_cuda_go_with_torch_and_it_is_said_why():
    found = between("2.10.0", "2.11.0", "cpu")

    (whole,) = found.units
    assert whole.title == f"{WHOLE} 2.10.0 (CUDA 12) -> 2.11.0 (CUDA 13)"
    assert {"torch", "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu13", "cuda-bindings"} <= set(whole.packages)
    assert "nvidia-cublas-cu12 12.8.4.1 -> nvidia-cublas 13.1.0.3" in whole.contents
    assert "asks for libcublas.so.12, torch 2.11.0 for CUDA 13 and libcublas.so.13" in _warning(found)
    assert _warning(found).endswith("Nothing else differs.")


def test_the_command_says_it_before_it_indexes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def prepare(*_arguments: object) -> None:
        raise InfrastructureError("the first index")

    monkeypatch.setattr("harness.running.checks.to_run", lambda _selection: experiment_on("gpu"))
    monkeypatch.setattr("harness.explain.pair.prepare_pair", prepare)
    code, out, err = run(capsys, "blame", "2.10.0", "2.11.0")

    assert code == 3
    assert "the first index" in err
    lines = out.splitlines()
    assert lines[0] == f"{WHOLE}: 2.10.0 (CUDA 12) -> 2.11.0 (CUDA 13)"
    assert "  nvidia-cublas-cu12: 12.8.4.1 -> nvidia-cublas 13.1.0.3" in lines
    assert "nvidia-cublas-cu12: 12.8.4.1 -> 12.9.1.4" in lines
    assert lines[-1].startswith(f"{WHOLE}: these can only be exchanged together")
    assert "nvidia-cuda-runtime-cu12 12.8.90 -> 12.9.79" in lines[-1].rpartition("Exchanged by themselves: ")[2]


def test_what_faiss_keeps_is_exchanged_by_itself_and_each_torch_has_its_libraries():
    units = {unit.name: unit for unit in between("2.10.0", "2.11.0", "gpu").units}
    old, new = (lock_of(version, "gpu").packages for version in ("2.10.0", "2.11.0"))

    assert set(units) == {WHOLE, "nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"}
    there = exchanged("2.11.0", "2.10.0", "gpu", units[WHOLE])
    assert there["torch"] == "2.10.0"
    assert there["nvidia-cudnn-cu12"] == old["nvidia-cudnn-cu12"]
    assert there["nvidia-cublas-cu12"] == new["nvidia-cublas-cu12"]
    assert not {"nvidia-cublas", "cuda-toolkit", "nvidia-cudnn-cu13"} & set(there)
    back = exchanged("2.10.0", "2.11.0", "gpu", units[WHOLE])
    assert back["torch"] == "2.11.0"
    assert back["nvidia-cublas"] == new["nvidia-cublas"]
    assert back["nvidia-cublas-cu12"] == old["nvidia-cublas-cu12"]
    alone = exchanged("2.11.0", "2.10.0", "gpu", units["nvidia-cublas-cu12"])
    assert {name for name in new if alone[name] != new[name]} == {"nvidia-cublas-cu12"}


def test_a_faiss_that_is_built_for_another_cuda_goes_with_it():
    whole, *others = between("2.0.1", "2.1.0", "gpu").units

    assert {"faiss-gpu-cu11", "faiss-gpu-cu12"} <= set(whole.packages)
    assert {unit.name for unit in others} == {"cmake", "lit", "triton"}


def test_the_answer_says_what_could_not_be_separated_and_the_table_has_a_row_for_each_part():
    units = between("2.10.0", "2.11.0", "gpu").units
    found = find(units, observer({WHOLE}))

    assert found.guilty == (WHOLE,)
    assert f"{WHOLE} 2.10.0 (CUDA 12) -> 2.11.0 (CUDA 13): exchanging it alone exchanges the result" in sentence(
        found, "2.10.0", "2.11.0"
    )
    assert "which of them does it cannot be told: torch 2.10.0 is built for CUDA 12" in sentence(
        found, "2.10.0", "2.11.0"
    )
    sides = SimpleNamespace(**{side: SimpleNamespace(cell=SimpleNamespace(label=side)) for side in "ab"})
    versions = difference(lock_of("2.10.0", "gpu"), lock_of("2.11.0", "gpu"))
    rows = blame_text.rows(Answer(units, (found,)), sides, versions)  # type: ignore[arg-type]
    never = [row for row in rows if row["result"] == NOT_EXCHANGEABLE]
    assert [row["what"] for row in never] == [part.name for part in units[0].parts]
    assert {row["what"] for row in never} >= {"torch", "nvidia-cublas-cu12", "nvidia-cudnn-cu12"}
    assert all("libcublas.so.13" in row["reason"] and "base" not in row for row in never)
    assert [row["what"] for row in rows if row not in never] == [",".join(o.units) for o in found.tried]


def test_faiss_s_own_cublas_is_blamed_alone_where_it_does_it():
    found = find(between("2.10.0", "2.11.0", "gpu").units, observer({"nvidia-cublas-cu12"}))

    assert found.guilty == ("nvidia-cublas-cu12",)
    assert sentence(found, "2.10.0", "2.11.0").startswith(
        "nvidia-cublas-cu12 12.8.4.1 -> 12.9.1.4: exchanging it alone"
    )
    assert "cannot be told" not in sentence(found, "2.10.0", "2.11.0")


def test_a_cublas_of_cuda_12_that_already_gives_the_newer_result_is_said():
    """Torch 2.10.0 in 2.11.0 finds faiss' cuBLAS 12.9, which here computes as 13.1 does."""

    def observe(base: str, units: Sequence[Unit]) -> Outcome:
        names = {unit.name for unit in units}
        whole, library = WHOLE in names, "nvidia-cublas-cu12" in names
        if base == "A":
            return Outcome(base, tuple(names), AS_B if whole or library else AS_A)
        return Outcome(base, tuple(names), AS_A if whole and library else AS_B)

    found = find(between("2.10.0", "2.11.0", "gpu").units, observe)

    assert set(found.guilty) == {WHOLE, "nvidia-cublas-cu12"}
    assert "in 2.11.0 no part of them does" in sentence(found, "2.10.0", "2.11.0")
    assert "nvidia-cublas-cu12 12.8.4.1 -> 12.9.1.4 alone gives the result of 2.11.0" in sentence(
        found, "2.10.0", "2.11.0"
    )
    assert "Bystanders" not in sentence(found, "2.10.0", "2.11.0")


def test_setuptools_is_a_bystander_that_is_named_and_not_called_exchanged():
    units = between("2.12.1", "2.13.0", "cpu").units
    found = find(units, observer({"torch"}))

    assert found.guilty == ("torch",)
    assert "setuptools" not in {name for o in found.tried for name in o.units}
    assert sentence(found, "2.12.1", "2.13.0").endswith(
        "Bystanders that were not exchanged: setuptools 75.8.2 -> 77.0.3."
    )


def test_setuptools_is_blamed_only_if_it_was_exchanged():
    found = find(between("2.12.1", "2.13.0", "cpu").units, observer({"setuptools"}))

    assert found.guilty == ("setuptools",)
    assert ("B", ("setuptools",)) in {(o.base, o.units) for o in found.tried}
    # All else was exchanged alone on the way to it.
    assert "Bystanders" not in sentence(found, "2.12.1", "2.13.0")
