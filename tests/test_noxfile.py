"""The front door: a session for each version and each thing to do, and a README whose commands exist."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import yaml

from harness.cli import COMMANDS
from harness.environments import uv
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from tests.support.front_door import Door
from tests.support.understood import front_door
from tests.support.uv_variables import DECIDES, REACHES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "cli.md")]
NAMED = {"compare-consecutive", "sweep", "quickstart", "lock", "tests", "lint", "typecheck"}
JOBS = ("index", "search", "train", "probe")
"""Those that have a session for each version."""


@cache
def sessions() -> dict[str, str]:
    """Name to description, as nox itself lists them."""
    done = subprocess.run(
        [sys.executable, "-m", "nox", "--script-mode", "none", "--list", "--json", "-k", "not nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return {entry["session"]: entry["description"] for entry in json.loads(done.stdout)}


def functions() -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_one_process_runs_what_shares_fixtures(request):
    """Where xdist does not see groups, nothing fails: what tests share is made in both processes."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there is one process: `nox -s tests` has two")
    assert request.node.nodeid.rpartition("@")[2] == f"{request.path} 0"


@pytest.mark.parametrize("job", JOBS)
def test_every_version_has_a_session_and_every_such_session_a_version(job):
    found = [name.removeprefix(f"{job}-") for name in sessions() if name.startswith(f"{job}-")]
    matrix = load_matrix(ROOT / "matrix.yaml")

    # An axis is one line of the list, whatever its length.
    assert found == [*matrix.versions, *(matrix.on_axis(package)[-1] for package in matrix.axes)]


def test_every_point_of_an_axis_has_a_session_though_the_list_shows_one(tmp_path):
    matrix = load_matrix(ROOT / "matrix.yaml")
    asked = [(job, point) for job in JOBS for package in matrix.axes for point in matrix.on_axis(package)[:2]]

    door = Door(tmp_path, "print('ran', *sys.argv[1:])")
    told, _ = door.start(*(f"{job}-{point}" for job, point in asked)).communicate(timeout=120)

    assert asked
    assert [tuple(line.split()[1:]) for line in told.splitlines() if line.startswith("ran ")] == asked


def test_the_sessions_of_the_contract_are_there():
    assert set(sessions()) >= NAMED


def test_the_list_reads_like_a_table_of_contents():
    for name, description in sessions().items():
        assert description.endswith("."), name
        assert len(description) > 20, name
    one_version = [name.startswith(tuple(f"{job}-" for job in JOBS)) for name in sessions()]
    assert one_version == sorted(one_version), "the many sessions of single versions hide the others"


def test_sessions_call_commands_that_exist():
    called = {
        node.args[1].value
        for function in functions().values()
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "harness"
        if len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    }

    called |= set(JOBS)
    assert called >= {"quickstart", "index", "sweep", "nightly", "consecutive", "compare", "doctor", "lock"}
    assert called <= set(COMMANDS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("versions:\n", "versions: ]\n", "matrix.yaml, line "),
        ("versions:\n", "verzions:\n", "matrix.yaml: a list of `versions` is"),
        ("schema: 1\n", "- 1\n", "matrix.yaml, line "),
    ],
)
def test_a_matrix_without_versions_is_a_sentence_from_nox_too(tmp_path, old, new, said):
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    (tmp_path / "matrix.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    shutil.copy(ROOT / "noxfile.py", tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "nox", "--script-mode", "none", "--list"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_nox_provides_itself_with_what_it_needs():
    """The header names every module that the file imports from outside the standard library."""
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    header = text.partition("# ///\n")[0].partition("# /// script")[2]
    imported = {
        name.partition(".")[0]
        for node in ast.parse(text).body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    for module in imported - set(sys.stdlib_module_names):
        assert re.search(rf'"{"pyyaml" if module == "yaml" else module}[>=]', header), module


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path):
    text = path.read_text(encoding="utf-8")

    for name in re.findall(r"`((?:docs|results|locks|harness|tests)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (path.parent / target).exists(), target


def test_the_readme_starts_with_the_two_commands():
    first, second = re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)[:2]

    assert "nox -s quickstart" in first
    assert "pip install nox" in first
    assert second.strip().endswith("nox -s tests")


def test_the_readme_s_sample_is_what_a_command_printed():
    """The indented lines of the first screen, of which the file that it names has every word."""
    lines = [line.strip() for line in README.partition("## ")[0].splitlines() if line.startswith("    ")]
    named = re.search(r"`(results/[^`]+/table\.md)`", README)
    assert named
    printed = " ".join((ROOT / named[1]).read_text(encoding="utf-8").split())

    assert len(lines) >= 4
    assert all(part in printed for part in re.split(r" (?=[\d.]+ -> )", " ".join(lines)))


def test_ci_runs_the_readme_s_test_command():
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert "nox -s tests" in text
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_push_is_checked_for_style_and_types_and_then_by_all_of_ci():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    run = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    named = [name for steps in run.values() for step in steps for name in re.findall(r"nox -s ([a-z ]+)", step)]

    assert "nox -s lint typecheck" in run["quick"]
    assert run["everything"] == [".ci/run"]
    assert {session for names in named for session in names.split()} <= set(sessions())


def test_uv_gets_the_same_variables_from_nox_as_from_the_harness(monkeypatch, tmp_path):
    """Nox cannot import the harness, whose environment it makes; only the cache is nox's own."""
    for name, text in {**DECIDES, **REACHES}.items():
        monkeypatch.setenv(name, text)
    ours = uv.uv_environment(Home(tmp_path))
    for name in ("UV_CACHE_DIR", "NO_COLOR"):
        del ours[name]

    assert front_door().uv_environment() == ours


PROMISES = {"sweep": {0}, "nightly": {0}, "index-2.8.0": {0}, "locate": {0, 1}, "compare-consecutive": {0, 1}}
"""Session to the exit codes of `harness` with which it ends well."""


@pytest.mark.parametrize("session", PROMISES)
def test_a_session_ends_well_where_it_promises_and_else_with_the_command_s_own_code(tmp_path, session):
    door = Door(tmp_path, "sys.exit(int(open('code').read()))")
    for code in (0, 1, 3):
        (tmp_path / "code").write_text(f"{code}")
        process = door.start(session)
        process.communicate(timeout=300)

        assert process.returncode == (0 if code in PROMISES[session] else code)


STOPS = (
    "def stop(*_a):\n    time.sleep(1.5); print('ended cleanly', flush=True); sys.exit(CODE)\n"
    "signal.signal(signal.SIGINT, stop)\n"
    "open('ready.new', 'w').write(' '.join(sys.argv[1:])); os.rename('ready.new', 'ready')\n"
    "time.sleep(600)"
)


@pytest.mark.parametrize(
    ("sessions", "code"),
    [(["sweep"], 3), (["index-2.8.0", "index-2.7.1"], 0), (["locate", "doctor"], 130), (["probe-2.8.0"], 3)],
)
def test_ctrl_c_is_the_command_s_own_and_it_has_all_the_time_it_wants(tmp_path, sessions, code):
    """Nox itself would end it after 0.3 s, and start the next session."""
    process = Door(tmp_path, STOPS.replace("CODE", str(code))).start(*sessions)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=300)

    assert process.returncode == code
    assert out.count("ended cleanly") == 1


def test_only_one_helper_starts_the_harness():
    """All sessions end the same way because they share it."""
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")

    assert text.count("/harness") == text.count("subprocess.Popen") == 1


def test_the_readme_counts_the_versions_of_the_matrix():
    """How many versions there are, and from which to which, is true of matrix.yaml."""
    versions = load_matrix(ROOT / "matrix.yaml").versions
    said = re.search(r"for (\d+) PyTorch versions from (\S+) to\s+([\d.]+\d)", README)
    assert said
    assert said.groups() == (str(len(versions)), versions[0], versions[-1])
    steps = re.search(r"all (\d+) steps from (\S+) to ([\d.]+\d)", README)
    assert steps
    assert steps.groups() == (str(len(versions) - 1), versions[0], versions[-1])
