"""Lock files of the user's own, built by the real uv from an index on loopback: one set of packages, however locked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.environments.build import evict
from harness.environments.chosen import Names
from harness.environments.counterfactual import Party, environment_with, separate_pythons
from harness.environments.interpreter import installed_packages, site_of
from harness.environments.lockfile import Lock
from harness.environments.own import Own
from harness.environments.uv import BuildFailed, run_uv
from harness.errors import UsageError
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from tests.support.own_environments import make_virtualenv, site_folder
from tests.support.package_index import PackageIndex
from tests.support.small_matrix import SmallWorld

LOOSE = "colbert-ai\nfaiss-cpu\ntransformers>=4\nsafetensors\n"
PROJECT = """\
[project]
name = "service"
version = "1"
requires-python = ">=3.11"
dependencies = ["colbert-ai", "faiss-cpu", "transformers>=4", "safetensors"]

[dependency-groups]
dev = ["pytest"]
"""


class Bench:
    """A home, and an index that has what a job needs."""

    def __init__(self, folder: Path, index: PackageIndex) -> None:
        self.folder, self.index, self.home = folder, index, Home(folder / "home")
        self.matrix = load_matrix(folder / "world" / "matrix.yaml")
        self.said: list[str] = []
        for version in ("2.7.1", "2.8.0"):
            index.add("torch", version, files={"torch/__init__.py": f"__version__ = {version!r}\n"})
        index.add("colbert-ai", "0.2.22", requires=["torch"], files={"colbert/__init__.py": ""})
        index.add("faiss-cpu", "1.12.0", files={"faiss.py": ""})
        for name in ("transformers", "safetensors", "pytest"):
            index.add(name, "4.49.0")
        index.add("appkit", "1.0", tag="cp311-cp311-macosx_11_0_arm64")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def own(self, item: str) -> Own:
        names = Names(self.home, self.said.append)
        found = names.own(names.require(self.matrix, item))
        assert found is not None
        return found

    def uv(self, *arguments: str) -> str:
        done = run_uv(self.home, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def bench(tmp_path, monkeypatch):
    with PackageIndex() as index:
        SmallWorld(tmp_path / "world", index).in_use(monkeypatch)
        yield Bench(tmp_path, index)


def test_the_same_packages_are_the_same_environment_however_they_are_locked(bench):
    loose = bench.write("loose.txt", LOOSE)
    hashed = bench.write("hashed.txt", bench.uv("pip", "compile", "--quiet", "--generate-hashes", str(loose)))
    pylock = bench.write("pylock.toml", bench.uv("pip", "compile", "--quiet", "--format", "pylock.toml", str(loose)))
    project = bench.write("project/pyproject.toml", PROJECT).parent
    bench.uv("lock", "--quiet", "--project", str(project))

    found = {
        name: bench.own(f"{name}={path}")
        for name, path in {"loose": loose, "hashed": hashed, "pylock": pylock, "project": project}.items()
    }

    assert {one.digest for one in found.values()} == {found["loose"].digest}
    assert found["loose"].packages["torch"] == "2.8.0"
    assert {name: one.kind for name, one in found.items()} == {
        "loose": "requirements", "hashed": "requirements", "pylock": "pylock", "project": "uv.lock",
    }  # fmt: skip
    assert "pytest" not in found["project"].packages
    assert found["loose"].parents["torch"] == ("colbert-ai",)


def test_a_file_without_pins_means_tomorrow_what_it_means_today(bench):
    loose = bench.write("loose.txt", LOOSE)
    first = bench.own(f"prod={loose}")
    bench.index.add("transformers", "5.0.0")
    again = bench.own(f"prod={loose}")
    changed = bench.own(f"next={bench.write('loose.txt', LOOSE + '# looked at again')}")

    assert again == first
    assert first.packages["transformers"] == "4.49.0"
    assert changed.digest != first.digest
    assert changed.packages["transformers"] == "5.0.0"


def test_an_environment_that_was_deleted_is_built_again_as_it_was(bench):
    own = bench.own(f"prod={bench.write('loose.txt', LOOSE)}")
    there = own.there("cpu")
    assert there is not None
    evict(bench.home, there, [])
    bench.index.add("transformers", "5.0.0")

    assert own.there("cpu") is None
    assert own.ensure(bench.said.append).python.exists()
    assert bench.own("prod") == own


def test_an_environment_that_somebody_installed_into_is_built_again_as_those_of_the_matrix_are(bench):
    own = bench.own(f"prod={bench.write('loose.txt', LOOSE)}")
    site = next(own.ensure(bench.said.append).python.parents[1].glob("lib/python3*/site-packages"))
    (site / "faiss.py").unlink()
    (site / "faiss.py").write_text("PATCHED = True\n")

    assert own.ensure(bench.said.append).python.exists()
    assert (site / "faiss.py").read_text() == ""
    assert bench.own("prod") == own


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("old.txt", "torch==9.9\ncolbert-ai\n", "uv cannot resolve it: .*torch==9.9"),
        ("mac.txt", f"appkit==1.0 --hash=sha256:{'0' * 64}\n", "installing the locked packages failed: .*appkit"),
        ("pylock.toml", "lock-version = 1\n", "pylock"),
        ("pylock.toml", "not toml", "cannot be read as a lock file"),
        ("none.txt", "transformers\n", "torch, colbert-ai, .* are not installed there"),
    ],
)
def test_a_lock_that_cannot_be_built_is_one_sentence_with_uv_s_words(bench, name, text, said):
    with pytest.raises(UsageError, match=said) as raised:
        bench.own(f"x={bench.write(name, text)}")

    assert "\n" not in str(raised.value)
    assert not list((bench.home.root / "own").glob("*.json"))


def party(bench: Bench, own: Own) -> Party:
    return Party(own.name, own.lock, lambda: own.ensure(bench.said.append))


def test_of_two_locks_uv_builds_one_with_the_packages_of_the_other_and_each_with_its_hash(bench):
    old = bench.own(f"old={bench.write('old.txt', LOOSE + 'torch==2.7.1')}")
    bench.index.add("transformers", "5.0.0")
    new = bench.own(f"new={bench.write('new.txt', LOOSE + 'torch==2.8.0')}")
    before = bench.said.copy()

    with environment_with(bench.home, bench.matrix, party(bench, old), party(bench, new), ["transformers"]) as made:
        there = installed_packages(made.python.parents[1])
    with environment_with(bench.home, bench.matrix, party(bench, new), party(bench, old), ["torch"]) as made:
        back = installed_packages(made.python.parents[1])

    assert there == {**old.packages, "transformers": "5.0.0"}
    assert back == {**new.packages, "torch": "2.7.1"}
    assert not list(bench.home.environments.glob("counterfactual-*"))
    assert bench.said == before


def test_a_lock_and_a_virtualenv_are_put_together_from_their_files(bench):
    old = bench.own(f"old={bench.write('old.txt', LOOSE + 'torch==2.7.1')}")
    venv = make_virtualenv(bench.folder / "venv", {"torch": "2.8.0"})
    (site_folder(venv) / "transformers" / "__init__.py").write_text("# patched\n")
    new = bench.own(f"new={venv}")

    with environment_with(bench.home, bench.matrix, party(bench, old), party(bench, new), ["transformers"]) as made:
        site = site_of(made)
        assert (site / "transformers" / "__init__.py").read_text() == "# patched\n"
        assert "2.7.1" in (site / "torch" / "__init__.py").read_text()
        assert not (site / "torch").is_symlink()
        assert (site / "transformers" / "__init__.py").is_symlink()
        done = subprocess.run(
            [made.python, "-c", "import torch; print(torch.__file__)"], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == str(site / "torch" / "__init__.py")


def test_between_two_pythons_nothing_is_exchanged_without_pins_for_both(bench):
    locks = [
        Lock(Path(), {}, {}, "", own={"kind": kind, "torch": "2"}, interpreter=f"CPython {version}")
        for kind, version in (
            ("interpreter", "3.11.7"), ("requirements", "3.12.1"), ("requirements", "3.11.9"),
            ("interpreter", "3.11.9"),
        )
    ]  # fmt: skip
    mixed, other, pinned, patch = locks

    assert "one runs CPython 3.11, the other CPython 3.12" in separate_pythons(mixed, other)
    assert separate_pythons(other, pinned) == ""
    assert separate_pythons(mixed, patch) == ""


def test_an_index_that_does_not_answer_is_nobody_s_wrong_use(bench):
    bench.index.status = 500

    with pytest.raises(BuildFailed, match="uv gets no answer from the package index"):
        bench.own(f"x={bench.write('loose.txt', LOOSE)}")


def test_a_project_without_its_lock_says_what_to_run(bench):
    project = bench.write("project/pyproject.toml", PROJECT).parent

    with pytest.raises(UsageError, match="run `uv lock` there first"):
        bench.own(f"x={project}")
    shutil.rmtree(project)
