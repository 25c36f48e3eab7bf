"""Lock files of the user's own, built by the real uv from an index on loopback: one set of packages, however locked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.environments.build import evict
from harness.environments.chosen import Names
from harness.environments.own import Own
from harness.environments.uv import BuildFailed, run_uv
from harness.errors import UsageError
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
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


def test_an_index_that_does_not_answer_is_nobody_s_wrong_use(bench):
    bench.index.status = 500

    with pytest.raises(BuildFailed, match="uv gets no answer from the package index"):
        bench.own(f"x={bench.write('loose.txt', LOOSE)}")


def test_a_project_without_its_lock_says_what_to_run(bench):
    project = bench.write("project/pyproject.toml", PROJECT).parent

    with pytest.raises(UsageError, match="run `uv lock` there first"):
        bench.own(f"x={project}")
    shutil.rmtree(project)
