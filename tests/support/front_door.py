"""A project whose `harness` is a few lines of Python, and the real nox in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Door:
    """A project whose `harness` is a few lines of Python, and the real nox in it."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder = folder
        for name in ("noxfile.py", "matrix.yaml"):
            shutil.copy(ROOT / name, folder)
        commands = folder / ".nox" / "reducer" / "bin"
        commands.mkdir(parents=True)
        (folder / "uv.py").write_text("def find_uv_bin(): return 'true'\n")
        (commands / "python").touch()
        (commands / "harness").write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{body}\n")
        (commands / "harness").chmod(0o755)

    def start(self, *sessions: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "nox", "--script-mode", "none", "-s", *sessions],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(self.folder)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
