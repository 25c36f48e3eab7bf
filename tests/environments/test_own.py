"""Environments of the user's own: known by every file in them, by no path, and nothing is written into them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from harness.environments import build as build_module
from harness.environments import installed as installed_module
from harness.environments import uv
from harness.environments.changes import changes
from harness.environments.chosen import Names, interpreter_for
from harness.environments.device import Device
from harness.environments.doctor_own import examine_own
from harness.environments.installed import examine
from harness.environments.own import Own, recognise
from harness.environments.uv import BuildFailed
from harness.errors import UsageError
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from tests.support.own_environments import make_virtualenv, site_folder
from tests.support.programs import FAKE

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")


class Bench:
    """Names of one home; each `Names` is one command line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.said: list[str] = []

    def names(self) -> Names:
        return Names(self.home, self.said.append)

    def own(self, item: str) -> Own:
        names = self.names()
        found = names.own(names.require(MATRIX, item))
        assert found is not None
        return found

    def digest(self, venv: Path) -> str:
        return examine(venv / "bin" / "python", "x", self.folder / "files.json").digest


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


# ---- what is installed


def test_the_same_packages_in_two_folders_are_the_same_environment_and_nothing_is_written_into_either(bench):
    one, other = (make_virtualenv(bench.folder / name) for name in ("one", "other"))
    before = everything_in(bench.folder)

    assert bench.digest(one) == bench.digest(other)
    left = {name: about for name, about in everything_in(bench.folder).items() if "files.json" not in name}
    assert left == before


@pytest.mark.parametrize(
    "files",
    [
        {"transformers/__init__.py": "__version__ = '4.49.0'\nPATCHED = True\n"},
        {"transformers/extra.py": ""},
        {"sitecustomize.py": "import os\n"},
        {"numpy-2.0.0.dist-info/METADATA": "Name: numpy\nVersion: 2.0.0\n"},
    ],
    ids=["a file changed in place", "a file more", "a file of no package", "a package more"],
)
def test_whatever_differs_in_a_site_folder_is_another_environment(bench, files):
    plain, changed = make_virtualenv(bench.folder / "plain"), make_virtualenv(bench.folder / "changed", files=files)

    assert bench.digest(plain) != bench.digest(changed)


def test_what_conda_installed_beside_python_counts_and_not_where_it_is(bench):
    made = []
    for name, build, folder in (("one", "h1", "/a"), ("same", "h1", "/b"), ("other", "h2", "/a")):
        venv = make_virtualenv(bench.folder / name)
        (venv / "conda-meta").mkdir()
        record = {
            "name": "mkl",
            "version": "2024.2",
            "build": build,
            "sha256": build * 20,
            "extracted_package_dir": folder,
        }
        (venv / "conda-meta" / f"mkl-2024.2-{build}.json").write_text(json.dumps(record))
        (venv / "conda-meta" / "torch-1-0.json").write_text(
            json.dumps({"name": "torch", "version": "1", "build": folder})
        )
        made.append(bench.digest(venv))

    assert made[0] == made[1]
    assert made[0] != made[2]


def test_a_patch_that_keeps_size_and_date_is_seen_by_whoever_read_the_file_before(bench):
    venv = make_virtualenv(bench.folder / "venv")
    path = site_folder(venv) / "transformers" / "__init__.py"
    before, about = bench.digest(venv), path.stat()
    path.write_text(path.read_text().replace("4.49.0", "4.49.1"))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    assert path.stat().st_size == about.st_size
    assert bench.digest(venv) != before


def test_a_file_that_two_environments_share_is_read_once(bench, monkeypatch):
    one, other = (make_virtualenv(bench.folder / name) for name in ("one", "other"))
    shared = site_folder(other) / "torch" / "__init__.py"
    shared.unlink()
    shared.hardlink_to(site_folder(one) / "torch" / "__init__.py")
    read: list[str] = []

    class Reading:
        AUTO = blake3.AUTO

        def __init__(self, *arguments, **options):
            self.real = blake3(*arguments, **options)
            self.hexdigest = self.real.hexdigest

        def update_mmap(self, path):
            read.append(str(path))
            return self.real.update_mmap(path)

    monkeypatch.setattr(installed_module, "blake3", Reading)
    first, second = (examine(v / "bin" / "python", "x", bench.folder / "cache") for v in (one, other))

    assert first.digest == second.digest
    assert str(shared) not in read
    assert str(site_folder(other) / "colbert" / "__init__.py") in read


def test_how_a_package_came_here_and_what_python_compiled_do_not_count(bench):
    files = {
        "torch-2.7.1.dist-info/INSTALLER": "pip\n",
        "torch-2.7.1.dist-info/direct_url.json": '{"url": "file:///elsewhere/torch.whl"}',
        "torch/__pycache__/x.cpython-311.pyc": "compiled",
    }
    plain, installed = make_virtualenv(bench.folder / "plain"), make_virtualenv(bench.folder / "other", files=files)

    assert bench.digest(plain) == bench.digest(installed)


def test_of_a_package_that_is_installed_in_place_its_sources_count_and_not_where_they_are(bench):
    digests = []
    for name, text in (("one", "a"), ("two", "a"), ("three", "b")):
        source = bench.folder / f"source-{name}"
        source.mkdir()
        (source / "colbert.py").write_text(f"VALUE = {text!r}\n")
        files = {
            "colbert_ai-0.2.22.dist-info/direct_url.json": (
                f'{{"url": "{source.as_uri()}", "dir_info": {{"editable": true}}}}'
            ),
            "__editable__.colbert_ai.pth": f"{source}\n",
            "colbert_ai-0.2.22.dist-info/RECORD": "__editable__.colbert_ai.pth,,\n",
        }
        digests.append(bench.digest(make_virtualenv(bench.folder / name, files=files)))

    assert digests[0] == digests[1] != digests[2]


def test_a_package_of_the_same_version_with_other_files_is_a_package_that_differs(bench):
    plain = make_virtualenv(bench.folder / "plain")
    patched = make_virtualenv(
        bench.folder / "patched", {"numpy": "2.0.0"}, {"transformers/__init__.py": "PATCHED = True\n"}
    )
    one, other = bench.own(f"a={plain}").lock, bench.own(f"b={patched}").lock

    found = {one.name: one for one in changes(one, other)}
    assert set(found) == {"numpy", "transformers"}
    assert found["transformers"].version_a != found["transformers"].version_b
    assert found["numpy"].title == "numpy absent -> 2.0.0"


# ---- names


def test_a_name_is_remembered_and_a_path_is_in_nothing_that_a_cell_has(bench):
    venv = make_virtualenv(bench.folder / "venv")
    first = bench.own(f"prod={venv}")
    again = bench.own("prod")

    assert again == first
    assert again.lock.own == {"kind": "interpreter", "torch": "2.7.1"}
    assert again.ensure(bench.said.append).as_is
    assert str(bench.folder) not in f"{again.lock.digest}{again.lock.own}{again.lock.packages}{again.lock.digests}"


def test_a_name_may_stand_for_a_version_of_the_matrix(bench):
    names = bench.names()

    assert names.require(MATRIX, "old=2.6.0") == "2.6.0"
    assert bench.names().require(MATRIX, "old") == "2.6.0"
    assert bench.names().canonical(MATRIX, "2.8.0#1 on old") == "2.8.0#1 on 2.6.0"
    assert bench.names().canonical(MATRIX, "old#2") == "2.6.0#2"


def test_an_environment_that_changed_after_it_was_named_runs_nothing_until_it_is_named_again(bench):
    venv = make_virtualenv(bench.folder / "venv")
    own = bench.own(f"prod={venv}")
    (site_folder(venv) / "transformers" / "__init__.py").write_text("PATCHED = True\n")

    with pytest.raises(BuildFailed, match=r"prod is not what it was when it was named: transformers 4.49.0 ->"):
        own.ensure(bench.said.append)
    assert bench.own(f"prod={venv}").digest != own.digest


# ---- bad input


def test_a_name_for_two_things_and_two_names_for_one(bench):
    one, other = (make_virtualenv(bench.folder / name) for name in ("one", "other"))
    different = make_virtualenv(bench.folder / "different", {"numpy": "2.0.0"})

    names = bench.names()
    names.require(MATRIX, f"a={one}")
    with pytest.raises(UsageError, match="a is used for two things"):
        names.require(MATRIX, f"a={different}")
    names.require(MATRIX, f"b={other}")
    assert names.own("a") is not None
    with pytest.raises(UsageError, match="a and b are the same environment"):
        names.own("b")
    assert names.require(MATRIX, f"c={different}") == "c"
    assert names.own("c") is not None


def test_a_name_that_a_label_already_used_cannot_be_given_another_environment(bench):
    names = bench.names()
    names.require(MATRIX, "old=2.6.0")
    names = bench.names()

    assert names.canonical(MATRIX, "2.8.0 on old") == "2.8.0 on 2.6.0"
    with pytest.raises(UsageError, match="old is used for two things"):
        names.require(MATRIX, "old=2.7.1")


def test_nothing_is_built_or_read_before_it_is_asked_for(bench):
    venv = make_virtualenv(bench.folder / "venv", {"colbert-ai": None})

    assert bench.names().require(MATRIX, f"a={venv}") == "a"
    assert bench.said == []


@pytest.mark.parametrize("name", ["", "2.8.0", "all", "a b", "../up", "x" * 41, "9lives"])
def test_a_name_that_could_be_something_else(bench, name):
    with pytest.raises(UsageError, match="cannot be called"):
        bench.names().require(MATRIX, f"{name}={bench.folder}")


def test_what_is_not_there_not_known_or_not_python(bench):
    (bench.folder / "empty").mkdir()
    (bench.folder / "notes.md").write_text("hello")
    tool = bench.folder / "tool"
    tool.write_text("#!/bin/sh\necho I am a shell script, called with $#: $*\n")
    tool.chmod(0o755)
    (bench.folder / "uv.lock").write_text("version = 1\n")
    for what, said in (
        ("nowhere", "there is no"),
        ("empty", "holds no bin/python, uv.lock or pylock.toml"),
        ("notes.md", "is no environment that is known here"),
        ("tool", "is not a Python interpreter \\(it says: I am a shell script, called with 2: -B -\\)"),
        ("uv.lock", "there is no pyproject.toml beside"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            bench.own(f"x={bench.folder / what}")
        assert str(raised.value).count("\n") == 0
    with pytest.raises(UsageError, match=r"'prod' is not a version.* Nor is an environment of your own"):
        bench.names().require(MATRIX, "prod")


def test_a_virtualenv_without_what_a_job_needs(bench):
    venv = make_virtualenv(bench.folder / "venv", {"colbert-ai": None, "faiss-cpu": None})

    with pytest.raises(UsageError, match="colbert-ai, faiss-cpu, or a build of faiss for the GPU are not installed"):
        bench.own(f"x={venv}")
    verdicts = {check.name: check.verdict for check in examine_own(venv / "bin/python", "x", Device("cpu", "cpu X"))}
    assert verdicts == {"python": "ok", "colbert": "problem", "faiss": "problem"}


def test_an_environment_whose_packages_do_not_import_is_refused_and_its_name_is_not_remembered(bench):
    text = "import setuptools_of_nobody\n"
    venv = make_virtualenv(bench.folder / "venv", files={"colbert/__init__.py": text})
    with pytest.raises(
        UsageError, match=r"No module named 'setuptools_of_nobody'\. If something is missing, install it"
    ):
        bench.own(f"mine={venv}")
    with pytest.raises(UsageError, match="is not a version"):
        bench.own("mine")


def test_where_an_import_fails_what_the_packages_require_and_do_not_have_is_named(bench):
    """As of a file that was resolved for another platform, in which torch has no libraries."""
    venv = make_virtualenv(bench.folder / "venv", files={"torch/__init__.py": "raise ValueError('no libcublas')"})
    metadata = site_folder(venv) / "torch-2.7.1.dist-info" / "METADATA"
    required = "".join(f"Requires-Dist: {name}==1.0; sys_platform != 'darwin'\n" for name in ("b-lib", "a-lib"))
    metadata.write_text(metadata.read_text().replace("Version: 2.7.1\n", f"Version: 2.7.1\n{required}"))

    with pytest.raises(
        UsageError, match=r"no libcublas\. Required and not installed there: a-lib==1\.0, b-lib==1\.0\."
    ):
        bench.own(f"mine={venv}")


def test_the_doctor_imports_what_a_job_needs(bench):
    venv = make_virtualenv(
        bench.folder / "venv",
        {"numpy": "2.0.0"},
        {
            "colbert/__init__.py": "raise ImportError('cannot import name AdamW')\n",
            "torch/__init__.py": (
                "class cuda:\n    is_available = get_arch_list = staticmethod(lambda: [])\n"
                "class version:\n    cuda = '12.4'\n__version__ = '2.7.1'\n"
            ),
        },
    )
    before = everything_in(venv)
    python = interpreter_for(str(venv), bench.home, MATRIX, ROOT / "locks", GPU)
    found = {check.name: check for check in examine_own(python, "x", GPU)}

    assert {name for name, check in found.items() if check.verdict == "problem"} == {"colbert", "gpu"}
    assert "cannot import name AdamW" in found["colbert"].detail
    assert "CUDA 12.4 and sees no GPU" in found["gpu"].detail
    assert everything_in(venv) == before


GPU = Device("cuda", "cuda Pretended 9.0")


def test_the_doctor_has_colbert_ai_load_a_small_model(bench):
    torch = (
        "class cuda:\n    is_available = get_arch_list = staticmethod(lambda: [])\n"
        "class version:\n    cuda = None\n__version__ = '2.7.1'\n"
    )
    model = "class Model:\n    def __init__(self, *a, **k): pass\n    def save_pretrained(self, folder): pass\n"
    factory = (
        "class Class:\n    @staticmethod\n    def from_pretrained(*a):\n        {}\n"
        "def class_factory(folder):\n    return Class\n"
    )
    verdicts = []
    for number, line in enumerate(("pass", "raise AttributeError('no all_tied_weights_keys')")):
        files = {
            "torch/__init__.py": torch, "transformers/__init__.py": f"{model}BertConfig = BertModel = Model\n",
            "colbert/infra.py": "ColBERTConfig = dict\n", "colbert/modeling/hf_colbert.py": factory.format(line),
        }  # fmt: skip
        venv = make_virtualenv(bench.folder / f"venv{number}", {"numpy": "2.0.0"}, files)
        found = {check.name: check for check in examine_own(venv / "bin" / "python", "x", Device("cpu", "cpu X"))}
        verdicts.append((found["model"].verdict, "all_tied_weights_keys" in found["model"].detail))

    assert verdicts == [("ok", False), ("problem", True)]


# ---- lock files


@pytest.fixture
def fake_uv(bench, monkeypatch):
    """A uv that installs metadata and modules of what it is asked for; see `fake_uv`."""
    state = bench.folder / "uv"
    state.mkdir()
    (state / "modules").touch()
    monkeypatch.setattr(uv, "uv_command", lambda: [sys.executable, "-S", str(FAKE), str(state)])
    monkeypatch.setattr(build_module, "uv_command", lambda: [sys.executable, "-S", str(FAKE), str(state)])
    return state


HASHED = "".join(
    f"{pin} \\\n    --hash=sha256:{'0' * 64}\n"
    for pin in ("torch==2.7.1", "colbert-ai==0.2.22", "faiss-cpu==1.8.0", "transformers==4.49.0", "safetensors==0.6.2")
)


def test_a_lock_with_hashes_is_built_as_it_is_and_once(bench, fake_uv):
    lock = bench.folder / "old.txt"
    lock.write_text(HASHED)
    own = bench.own(f"prod={lock}")
    again = bench.own(f"prod={lock}")
    calls = (fake_uv / "calls").read_text().splitlines()

    assert again.digest == own.digest
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert "--require-hashes" in calls[1]
    assert "--no-deps" in calls[1]
    assert own.lock.own == {"kind": "requirements", "torch": "2.7.1"}
    assert not own.ensure(bench.said.append).as_is
    assert own.there("cpu") is not None


def test_what_uv_says_of_a_lock_that_cannot_be_installed_is_said(bench, fake_uv):
    (fake_uv / "fail").write_text("error: No solution found when resolving: torch has no wheels for your platform\n")
    lock = bench.folder / "mac.txt"
    lock.write_text(HASHED)

    with pytest.raises(UsageError, match=r"mac=.*: installing the locked packages failed: .*no wheels for your platf"):
        bench.own(f"mac={lock}")
    (fake_uv / "fail").write_text("error: error sending request for url\n  Caused by: dns error\n")
    with pytest.raises(BuildFailed, match="cannot be reached"):
        bench.own(f"mac={lock}")


def test_a_folder_is_a_virtualenv_before_it_is_a_project(bench):
    venv = make_virtualenv(bench.folder / "venv")
    (venv / "uv.lock").write_text("version = 1\n")
    project = bench.folder / "project"
    project.mkdir()
    (project / "uv.lock").write_text("version = 1\n")
    (project / "pyproject.toml").write_text("")
    named = bench.folder / "pylock.prod.toml"
    named.write_text("")

    assert recognise("x", str(venv)).kind == "interpreter"
    assert recognise("x", str(project)).kind == "uv.lock"
    assert recognise("x", str(named)).kind == "pylock"
