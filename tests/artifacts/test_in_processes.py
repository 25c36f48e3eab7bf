"""Chunks that processes of their own compare: what is found, and said, is what threads find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.small_index import index_arrays, write_index

CODE = """
import os, sys
from harness.artifacts import comparison, index_meaning
from harness.artifacts.directory import IndexDirectory
from harness.files import dumps

def told(function, name):
    def telling(*arguments):
        with open(f"{sys.argv[3]}/{name}", "a") as file:
            print(os.getpid(), file=file)
        return function(*arguments)
    return telling

def who(name):
    try:
        return set(open(f"{sys.argv[3]}/{name}").read().split()) - {str(os.getpid())}
    except FileNotFoundError:
        return set()

comparison._chunk = told(comparison._chunk, "compared")
index_meaning.align = told(index_meaning.align, "aligned")

def found(least):
    comparison._FORKED_FROM = least
    return dumps(comparison.compare_sources(*map(IndexDirectory, sys.argv[1:3])).to_json())

threads = found(1 << 60)
assert not who("compared")
assert found(0) == threads
print(len(who("compared")), len(who("aligned")))
print(threads)
"""


def _said(a: Path, b: Path, scratch: Path) -> str:
    command = [sys.executable, "-c", CODE, str(a), str(b), str(scratch)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_processes_find_what_threads_find_of_moved_passages(tmp_path: Path) -> None:
    arrays = index_arrays(chunks=6)
    a = write_index(tmp_path / "a", arrays, chunks=6)
    arrays["0.codes"] = (arrays["0.codes"] + 1) % 4
    arrays["1.residuals"] = arrays["1.residuals"] ^ np.uint8(3)
    arrays["2.codes"], arrays["3.codes"] = arrays["3.codes"], arrays["2.codes"]
    arrays["2.residuals"], arrays["3.residuals"] = arrays["3.residuals"], arrays["2.residuals"]
    arrays["ivf"] = arrays["ivf"][::-1].copy()
    said = _said(a, write_index(tmp_path / "b", arrays, chunks=6), tmp_path)
    assert said.startswith("2 0\n")  # compared in two processes, which were told how rows line up
    assert '"rows_line_up": false' in said
    assert '"codes_n_moved"' in said


def test_processes_find_what_threads_find_whatever_is_wrong_with_a_chunk(tmp_path: Path) -> None:
    a, b = (write_index(tmp_path / name, chunks=6) for name in "ab")
    damaged = b / "4.residuals.pt"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    (b / "5.codes.pt").unlink()
    said = _said(a, b, tmp_path)
    assert said.startswith("2 ")
    assert '"unreadable"' in said
    assert '"missing_b"' in said


def test_an_index_of_which_only_residuals_differ(tmp_path: Path) -> None:
    """Then it is a process that finds out how rows line up."""
    arrays = index_arrays(chunks=3)
    a = write_index(tmp_path / "a", arrays, chunks=3)
    arrays["1.residuals"] = arrays["1.residuals"] ^ np.uint8(3)
    b = write_index(tmp_path / "b", arrays, chunks=3)
    said = _said(a, b, tmp_path)
    assert said.startswith("2 1\n")
    assert '"buckets_n_mismatch": 20' in said
