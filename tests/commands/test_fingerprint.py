"""`harness fingerprint`: which interpreter it runs, with what, and that its exit code is the script's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.home import package_folder
from tests.support.command import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A `python` that says what it is as Python does; started otherwise it writes down how, and ends with 1."""
    path = tmp_path / "bin" / "python"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\n[ "$2" = - ] && exec "{sys.executable}" "$@"\n'
        f'printf "%s\\n" "$@" "PYTHONPATH=$PYTHONPATH" > "{tmp_path}/started"\nexit 1\n'
    )
    path.chmod(0o755)
    return path


def test_the_script_is_run_by_the_interpreter_that_is_named(tmp_path, capsys, monkeypatch, python):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    options = ["--checkpoint", "ck", "--fingerprint", "f.json", "--rankings", "--json"]
    place = ["--home", tmp_path / "home", "--matrix", ROOT / "matrix.yaml"]
    code, _, _ = run(capsys, "fingerprint", "check", "INDEX", "--env", python, *options, *place)
    started = (tmp_path / "started").read_text().splitlines()

    assert code == 1
    assert started[:4] == ["-B", str(package_folder() / "worker" / "fingerprint.py"), "check", "INDEX"]
    assert sorted(started[4:]) == sorted([*options, "PYTHONPATH="])


def test_without_a_name_it_is_the_python_of_the_shell_and_is_said(tmp_path, capsys, monkeypatch, python):
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}/usr/bin:/bin")
    place = ["--home", tmp_path / "home", "--matrix", ROOT / "matrix.yaml"]
    code, _, err = run(capsys, "fingerprint", "take", "INDEX", *place)

    assert (code, err) == (1, f"With {python}, the python of this shell; --env names another.\n")


@pytest.mark.parametrize(("env", "said"), [("nothing", "there is no"), ("ls", "is not a Python interpreter")])
def test_what_is_no_environment_is_one_sentence(tmp_path, capsys, env, said):
    (tmp_path / "ls").symlink_to("/bin/ls")
    place = ["--home", tmp_path / "home", "--matrix", ROOT / "matrix.yaml"]
    code, out, err = run(capsys, "fingerprint", "take", "INDEX", "--env", tmp_path / env, *place)

    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
