"""What differs between two locks when NVIDIA's packages have other names in each."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from harness.environments.changes import Change, changes, cuda_of, library_of, required_by, undeclared
from harness.environments.counterfactual import separate_pythons
from harness.environments.lockfile import FLAVOURS, Lock, difference, lock_path, read_lock
from harness.environments.lockfile import lock_of as chosen_lock
from harness.inputs.matrix import Flavour
from harness.inputs.matrix_file import load_matrix
from tests.support.command import run

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
HASH = "--hash=sha256:" + "0123456789abcdef" * 4


@cache
def lock_of(version: str, flavour: Flavour) -> Lock:
    return read_lock(lock_path(ROOT / "locks", version, flavour))


def planted(path: Path, **packages: tuple[str, str]) -> Lock:
    """A lock of packages, each with its version and what requires it."""
    lines = (f"{name.replace('_', '-')}=={v} \\\n    {HASH}\n    # via {who}\n" for name, (v, who) in packages.items())
    path.write_text("".join(lines), encoding="utf-8")
    return read_lock(path)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_package_that_differs_is_in_a_row_and_the_other_way_round_each_row_is_reversed(flavour):
    for a, b in itertools.permutations([*MATRIX.versions[::4], "2.10.0", "2.11.0", "2.15.0"], 2):
        ours, theirs = lock_of(a, flavour), lock_of(b, flavour)
        found = changes(ours, theirs)

        assert {name for one in found for name in one.names} == set(difference(ours, theirs))
        assert len({one.names for one in found}) == len(found)
        assert {Change(c.name_b, c.version_b, c.name_a, c.version_a) for c in found} == set(changes(theirs, ours))
        for one in found:
            assert one.version_a == ours.packages.get(one.name_a or "")
            assert one.version_b == theirs.packages.get(one.name_b or "")
            assert len({library_of(name) for name in one.names}) == 1


def test_a_renamed_package_is_one_row():
    found = {one.name: one for one in changes(lock_of("2.10.0", "cpu"), lock_of("2.11.0", "cpu"))}

    a, b = lock_of("2.10.0", "cpu").packages, lock_of("2.11.0", "cpu").packages
    cublas = found["nvidia-cublas"]
    assert cublas.title == f"nvidia-cublas-cu12 {a['nvidia-cublas-cu12']} -> nvidia-cublas {b['nvidia-cublas']}"
    assert cublas.renamed_from == "nvidia-cublas-cu12"
    assert "nvidia-cublas-cu12" not in found
    # Of one version, and yet another package.
    assert found["nvidia-nvshmem-cu13"].version_a == found["nvidia-nvshmem-cu13"].version_b
    assert found["torch"].renamed_from is None
    assert found["torch"].title == "torch 2.10.0 -> 2.11.0"


def test_a_library_that_torch_shared_with_faiss_is_followed_for_both():
    """Torch 2.10.0 and faiss use one cuBLAS 12; torch 2.11.0 has a cuBLAS 13 of its own."""
    a, b = lock_of("2.10.0", "gpu"), lock_of("2.11.0", "gpu")
    found = {one.name: one for one in changes(a, b)}

    assert found["nvidia-cublas"].names == ("nvidia-cublas-cu12", "nvidia-cublas")
    assert required_by(found["nvidia-cublas"], a, b) == ("torch",)
    assert found["nvidia-cublas-cu12"].names == ("nvidia-cublas-cu12",)
    assert required_by(found["nvidia-cublas-cu12"], a, b) == ("faiss-gpu-cu12",)


def test_what_only_one_side_has_is_absent_on_the_other():
    found = {one.name: one for one in changes(lock_of("2.14.1", "cpu"), lock_of("2.15.0", "cpu"))}

    assert found["nvidia-curand"].title.endswith("-> absent")
    assert found["nvidia-cuda-cccl"].title.startswith("nvidia-cuda-cccl absent -> ")


def test_a_package_of_torch_s_is_not_taken_for_one_that_only_has_its_name(tmp_path):
    """Where nothing of torch's answers to it, the same name is what it is compared with."""
    a = planted(tmp_path / "a", torch=("1", "matrix.yaml"), tools=("1", "colbert-ai"), x_cu12=("1", "torch"))
    b = planted(tmp_path / "b", torch=("2", "matrix.yaml"), tools=("2", "torch"), x=("1", "colbert-ai"))

    assert [one.title for one in changes(a, b)] == [
        "tools 1 -> 2", "torch 1 -> 2", "x absent -> 1", "x-cu12 1 -> absent",
    ]  # fmt: skip
    assert [one.name for one in undeclared(MATRIX, a, b)] == ["x"]


def test_a_renamed_package_is_declared_only_if_both_of_its_names_are(tmp_path):
    def lock(name: str) -> Lock:
        return planted(tmp_path / name, torch=("1", "matrix.yaml"), **{name: ("1", "colbert-ai")})

    assert undeclared(MATRIX, lock("faiss_gpu_cu11"), lock("faiss_gpu_cu12")) == []
    assert [one.title for one in undeclared(MATRIX, lock("faiss_gpu_cu12"), lock("faiss_gpu_cu13"))] == [
        "faiss-gpu-cu12 1 -> faiss-gpu-cu13 1"
    ]


@pytest.mark.parametrize(("version", "cuda"), [("1.13.1", 11), ("2.1.0", 12), ("2.10.0", 12), ("2.11.0", 13)])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_cuda_that_torch_is_built_for(version, cuda, flavour):
    assert cuda_of(lock_of(version, flavour)) == cuda


def test_a_torch_without_cuda_is_built_for_none(tmp_path):
    assert cuda_of(planted(tmp_path / "a", torch=("1", "matrix.yaml"), nvidia_cuda_runtime=("13.0", "faiss"))) is None


def test_the_command_prints_a_renamed_package_as_one_row_and_says_what_is_not_torch_s(capsys):
    code, out, _ = run(capsys, "lock", "--diff", "2.10.0", "2.11.0", "--flavour", "gpu")

    assert code == 0
    rows = out.splitlines()
    assert "nvidia-cublas-cu12 12.8.4.1 -> nvidia-cublas 13.1.0.3" in rows
    (other,) = [row for row in rows if row.startswith("nvidia-cublas-cu12 12.8.4.1 -> 12")]
    assert other.endswith("  (required by faiss-gpu-cu12, not by torch)")
    assert "torch 2.10.0 -> 2.11.0" in rows


def test_setuptools_that_torch_requires_from_2_13_0_is_declared_and_shown():
    a, b = lock_of("2.12.1", "cpu"), lock_of("2.13.0", "cpu")
    found = {one.name: one for one in changes(a, b)}

    assert found["setuptools"].title == "setuptools 75.8.2 -> 77.0.3"
    assert required_by(found["setuptools"], a, b) == ("torch",)
    assert undeclared(MATRIX, a, b) == []


def test_of_a_version_the_python_is_known_before_it_is_built() -> None:
    version = chosen_lock(MATRIX, ROOT / "locks", "2.8.0", "cpu")
    own = [
        replace(version, own={"kind": kind, "torch": "2.8.0"}, interpreter=f"CPython {python}")
        for kind, python in (("interpreter", "3.12.1"), ("interpreter", "3.11.7"), ("requirements", "3.12.1"))
    ]  # fmt: skip
    other, same, built = own

    assert "one runs CPython 3.11, the other CPython 3.12" in separate_pythons(version, other)
    assert separate_pythons(version, same) == ""
    assert separate_pythons(version, built) == ""
    assert separate_pythons(version, built, brought=True)
    # It can be exchanged where both are built, and is no difference where as much as is known is the same.
    assert [one.title for one in changes(version, built)] == ["python CPython 3.11 -> CPython 3.12.1"]
    assert changes(version, same) == ()
