"""Two real torch environments, and a home of their own for each session; the first test builds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.environments.build import Environment, ensure_environment
from harness.home import Home
from harness.inputs.matrix_file import load_matrix

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
OLD, NEW = MATRIX.quickstart.versions[:2]


@pytest.fixture(scope="session")
def environments() -> dict[str, Environment]:
    """The two environments, built if they are not there yet."""
    base = Home(Path(os.environ.get("HARNESS_HOME") or ROOT / ".harness").resolve())
    return {version: ensure_environment(base, MATRIX, ROOT / "locks", version, "cpu") for version in (OLD, NEW)}


@pytest.fixture(scope="session")
def home(environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with those environments and their caches, and a store of its own."""
    base = environments[OLD].path.parent.parent
    (base / "cache").mkdir(exist_ok=True)
    made = tmp_path_factory.mktemp("home")
    (made / "envs").symlink_to(base / "envs")
    (made / "cache").symlink_to(base / "cache")
    return Home(made)


def harness(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as a user would."""
    command = [sys.executable, "-m", "harness", *arguments, "--home", str(home.root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
