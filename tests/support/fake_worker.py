"""Interpreters that stand in for an environment's own: `PYTHON -m harness.worker CELL.json OUT` runs a few lines."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.environments.interpreter import Interpreter
from tests.support.small_index import write_index

_HEAD = """
import json, os, pathlib, shutil, signal, subprocess, sys, time
cell_path, out = (pathlib.Path(a) for a in sys.argv[-2:])
cell = json.loads(cell_path.read_text())
made = pathlib.Path(MADE)
def phase(name):
    (out / "phase").write_text(name)
def result(**changes):
    text = {"schema": 1, "outcome": "ok", "reason": "", "phase": "finalize", "seconds": {"total": 1.5}, **changes}
    (out / "result.json").write_text(json.dumps(text))
def index():
    shutil.copytree(made / "index", out / "index")
"""
WELL = "phase('import'); time.sleep(0.3); phase('finalize'); index(); result(observed={'attention_class': 'Eager'})\n"


def script_of(folder: Path, body: str) -> str:
    """The lines of a job that makes what is in a folder; `body` may use `cell`, `out`, `made`, `phase` and so on."""
    return _HEAD.replace("MADE", repr(str(folder))) + body


def fake_interpreter(folder: Path, body: str = WELL) -> Interpreter:
    """Make an executable that runs `body`, which may use `cell`, `out`, `made`, `phase`, `result` and `index`."""
    python = folder / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    write_index(folder / "index")
    # Through /bin/sh, because the kernel limits the length of a first line.
    script = folder / "worker.py"
    script.write_text(script_of(folder, body))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n')
    python.chmod(0o755)
    return Interpreter(python)
