"""Another build of a version serves the GPUs that its wheel has no code for; another Python is built and looked for."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from harness.environments.build import Environment, ensure_environment
from harness.environments.device import build_for, missing_code
from harness.environments.doctor import Check, examine, unsupported
from harness.environments.lockfile import FLAVOURS, lock_of, lock_path, read_lock
from harness.environments.resolve import write_locks
from harness.environments.uv import run_uv
from harness.errors import UsageError
from harness.home import Home
from harness.inputs.matrix import Matrix
from harness.inputs.matrix_file import load_matrix, parse_matrix
from harness.running.experiment import Experiment
from harness.running.selection import Selection
from tests.support.package_index import PackageIndex
from tests.support.small_matrix import CP311, CP312, TEXT, SmallWorld

ROOT = Path(__file__).parents[2]
H100, A100, B200 = "cuda NVIDIA H100 80GB HBM3 9.0", "cuda NVIDIA A100 8.0", "cuda NVIDIA B200 10.0"


def with_build(url: str) -> str:
    oddity = (
        '  - versions: ["2.7.1"]\n    flavour: gpu\n    architectures: [sm_70, sm_80, sm_86]\n'
        "    build: {index: cu118, version: 2.7.1+cu118, architectures: [sm_80, sm_90]}\n"
        "    reason: Its own wheel has no code for Hopper.\n"
    )
    text = TEXT.replace("\n# The versions.", f"\nindexes: {{cu118: {url}}}\n# The versions.")
    return text.replace("oddities: []\n", f"oddities:\n{oddity}")


def test_a_gpu_gets_the_version_s_own_wheel_where_that_has_code_for_it():
    matrix = parse_matrix(with_build("http://x"))

    assert build_for(matrix, "2.7.1", A100) is None
    assert build_for(matrix, "2.7.1", "cpu Vendor 1/2") is None
    assert build_for(matrix, "2.8.0", H100) is None
    build = build_for(matrix, "2.7.1", H100)
    assert build is not None
    assert build.version == "2.7.1+cu118"
    assert missing_code(matrix, "2.7.1", H100) == ""
    assert unsupported(matrix, H100) == {}


def test_a_gpu_that_neither_has_code_for_is_told_of_the_version_s_own_wheel():
    matrix = parse_matrix(with_build("http://x"))

    assert build_for(matrix, "2.7.1", B200) is None
    assert missing_code(matrix, "2.7.1", B200).startswith(
        "The wheel of torch 2.7.1 holds code for sm_70, sm_80, sm_86, none of which runs on NVIDIA B200"
    )


@pytest.fixture
def world(tmp_path, monkeypatch):
    with PackageIndex() as index:
        made = SmallWorld(tmp_path / "world", index).in_use(monkeypatch)
        for version in ("2.7.1", "2.8.0"):
            made.torch(version, tags=[CP311, CP312])
        yield made


def lock(world: SmallWorld, text: str, versions: list[str]) -> Matrix:
    world.matrix.write_text(text, encoding="utf-8")
    matrix = load_matrix(world.matrix)
    write_locks(matrix, world.root / "locks", versions, partial(run_uv, Home(world.root / "home")))
    return matrix


@pytest.mark.slow
def test_the_build_has_a_lock_an_environment_and_cells_of_its_own(world):
    with PackageIndex() as other:
        world.torch("2.7.1+cu118", index=other)
        matrix = lock(world, with_build(other.url), ["2.7.1"])
        home, locks = Home(world.root / "home"), world.root / "locks"
        experiments = {gpu: Experiment(Selection(world.matrix, home.root, identity=gpu)) for gpu in (H100, A100)}
        made = ensure_environment(home, matrix, locks, "2.7.1", "gpu", build_for(matrix, "2.7.1", H100))

    assert {gpu: one.lock("2.7.1").packages["torch"] for gpu, one in experiments.items()} == {
        H100: "2.7.1+cu118", A100: "2.7.1",
    }  # fmt: skip
    assert made.packages["torch"] == "2.7.1+cu118"
    assert made.lock == experiments[H100].lock("2.7.1")
    assert sorted(path.name for path in (locks / "gpu").iterdir()) == [
        "shared.txt", "torch-2-7-1+cu118.txt", "torch-2-7-1.txt",
    ]  # fmt: skip
    assert not (locks / "cpu" / "torch-2-7-1+cu118.txt").exists()


# ---- another Python

PYTHON = '  - {versions: ["2.8.0"], python: "3.12", reason: No wheel for 3.11 any more.}\n'


def in_python(python: str) -> str:
    return TEXT.replace("oddities: []\n", f"oddities:\n{PYTHON}".replace("3.12", python))


def test_a_lock_for_another_python_than_the_matrix_says_is_refused_with_the_mend(world):
    lock(world, TEXT, ["2.8.0"])
    matrix = parse_matrix(in_python("3.12"))

    with pytest.raises(UsageError, match=r"is for Python 3\.11, and matrix\.yaml has 3\.12 for 2\.8\.0: run"):
        lock_of(matrix, world.root / "locks", "2.8.0", "cpu")
    told = {check.name: check for check in examine(matrix, Home(world.root / "home"), world.root / "locks", "cpu")}
    assert told["locks"].verdict == "problem"
    assert "is for Python 3.11" in told["locks"].detail


def test_the_doctor_looks_for_every_python_of_the_matrix(world):
    checks = examine(parse_matrix(in_python("3.99")), Home(world.root / "home"), world.root / "locks", "cpu")

    here, other = (check for check in checks if check.name == "python")
    assert here == Check("python", "ok", "Python 3.11 is there for the environments.")
    assert other.verdict == "problem"
    assert other.detail.startswith("uv finds no Python 3.99, which 2.8.0 needs: install it (")


def other_python(home: Home) -> None:
    """Skip a test where there is no Python 3.12."""
    if run_uv(home, "python", "find", "--no-project", "3.12").returncode:
        pytest.skip("no Python 3.12 here")


def version_of(environment: Environment, code: str = "import sys; print(sys.version_info[:2])") -> str:
    done = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    return done.stdout.strip()


@pytest.mark.slow
def test_an_environment_is_built_in_the_python_of_its_lock(world):
    home = Home(world.root / "home")
    other_python(home)
    matrix = lock(world, in_python("3.12"), ["2.7.1", "2.8.0"])

    made = {v: ensure_environment(home, matrix, world.root / "locks", v, "cpu") for v in ("2.7.1", "2.8.0")}

    assert {version: version_of(one) for version, one in made.items()} == {"2.7.1": "(3, 11)", "2.8.0": "(3, 12)"}
    assert made["2.8.0"].packages["torch"] == "2.8.0"


@pytest.mark.integration
def test_the_newest_version_can_be_had_in_another_python(tmp_path):
    """Of the project's own matrix, from the package index: its stack imports in Python 3.12."""
    home = Home(tmp_path / "home")
    other_python(home)
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    newest = parse_matrix(text).versions[-1]
    oddity = f'oddities:\n  - {{versions: ["{newest}"], python: "3.12", reason: To see that it can.}}\n'
    matrix = parse_matrix(text.replace("oddities:\n", oddity, 1))

    write_locks(matrix, tmp_path / "locks", [newest], partial(run_uv, home))
    made = ensure_environment(home, matrix, tmp_path / "locks", newest, "cpu")

    assert {read_lock(lock_path(tmp_path / "locks", newest, flavour)).python for flavour in FLAVOURS} == {"3.12"}
    code = "import sys, torch, colbert; print(sys.version_info[:2], torch.__version__)"
    assert version_of(made, code).startswith(f"(3, 12) {newest}")
