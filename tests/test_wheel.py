"""The built wheel, in an empty folder: what works with the small install, and what says which extra it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

from harness.commands.init import TRAVELS
from tests.support.small_index import write_index

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Installed:
    """The command of an environment that holds the wheel and what it requires, and an empty folder to run it in."""

    command: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments], cwd=self.folder, capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder.parent)},
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built and installed as a user's uv would."""
    base = tmp_path_factory.mktemp("wheel")
    for command in (
        ["build", "--quiet", "--wheel", "--out-dir", str(base / "dist"), str(ROOT)],
        ["venv", "--quiet", "--python", "3.11", str(base / "venv")],
    ):
        subprocess.run([uv.find_uv_bin(), *command], check=True, timeout=240)
    (wheel,) = (base / "dist").glob("*.whl")
    python = str(base / "venv" / "bin" / "python")
    install = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", python, str(wheel)]
    subprocess.run(install, check=True, timeout=240)
    (base / "empty").mkdir()
    return Installed(base / "venv" / "bin" / "harness", base / "empty")


@pytest.mark.slow
def test_two_folders_are_compared_outside_of_any_clone(installed, tmp_path):
    write_index(tmp_path / "a", chunks=1)
    write_index(tmp_path / "b", chunks=1)
    same = installed.run("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    (tmp_path / "b" / "centroids.pt").unlink()
    other = installed.run("ladder", str(tmp_path / "a"), str(tmp_path / "b"))

    assert (same.returncode, other.returncode) == (0, 1), same.stderr + other.stderr
    assert "centroids" in same.stdout
    assert list(installed.folder.iterdir()) == []


@pytest.mark.slow
def test_what_is_not_there_is_said_and_not_which_package_would_have_looked(installed, tmp_path):
    for command in (["compare", "a", "b"], ["ladder", "a", "b"]):
        done = installed.run(*command)
        assert done.returncode == 2
        assert done.stderr.startswith("harness: 'a' is neither a ColBERT index directory nor")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["sweep", "2.8.0"], "run"),
        (["upgrade", "2.7.1", "2.8.0"], "run"),
        (["headlines", "."], "report"),
        (["rankings", "a.run", "b.run"], "rankings"),
    ],
)
def test_a_command_that_needs_more_names_the_extra_in_a_sentence(installed, arguments, extra):
    for name in ("a.run", "b.run"):
        (installed.folder / name).write_text("q Q0 d 1 1.0 t\n")
    done = installed.run(*arguments)

    assert done.returncode == 2
    assert re.fullmatch(
        rf"harness: `harness {arguments[0]}` needs \w+ for this, which is not installed: install "
        rf"'colbert-torch-harness\[{extra}\]', which has it\.\n",
        done.stderr,
    )
    for name in ("a.run", "b.run"):
        (installed.folder / name).unlink()


@pytest.mark.slow
def test_the_matrix_travels_with_its_locks_and_is_written_only_by_init(installed):
    assert installed.run("lock", "--diff", "2.7.1", "2.8.0").returncode == 0
    refused = installed.run("lock", "2.8.0")
    made = installed.run("init", "mine")
    again = installed.run("init", "mine")

    assert (refused.returncode, made.returncode, again.returncode) == (2, 0, 2), made.stderr
    assert "`harness init`" in refused.stderr
    for name in TRAVELS:
        here, there = ROOT / name, installed.folder / "mine" / name
        files = [path.relative_to(here) for path in here.rglob("*.txt")] if here.is_dir() else [Path()]
        assert all((here / one).read_bytes() == (there / one).read_bytes() for one in files)
    shutil.rmtree(installed.folder / "mine")


def test_what_init_writes_is_what_the_wheel_holds():
    held = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert held == {name: f"harness/default/{name}" for name in held}
    assert set(held) == set(TRAVELS)


def test_the_extra_run_holds_every_other():
    extras = PROJECT["project"]["optional-dependencies"]
    (named,) = (set(found[1].split(",")) for one in extras["run"] if (found := re.search(r"\[(.*)\]", one)))

    assert named == set(extras) - {"run"}
