"""A matrix of tiny packages that a package index on loopback has, and a torch that stands in for the job."""

from __future__ import annotations

import base64
import io
import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.package_index import PackageIndex
from tests.support.small_index import index_arrays, write_index

CP311 = "cp311-cp311-manylinux_2_28_x86_64"
CP312 = "cp312-cp312-manylinux_2_28_x86_64"

TEXT = """\
# A small experiment.
schema: 1
python: "3.11"
platform: x86_64-manylinux_2_28
exclude_newer: 2025-01-01T00:00:00Z

# The versions.
versions:
  - "2.7.1"  # an old one
  # The newest.
  - "2.8.0"

requirements:
  shared: [stack==1.0]
  flavours:
    cpu: [faiss-cpu==1.0]
    gpu: [faiss-gpu==1.0]
  may_differ: []

oddities: []
collections:
  embedded: {source: embedded, passages: 1000}
checkpoints:
  embedded: {source: embedded}
jobs:
  index:
    threads: 1
    retry: {tries: 1}
tolerances:
  default: {other: {atol: 1.0e-8, rtol: 1.0e-5}}
  bnb: {other: {atol: 1.0e-4, rtol: 1.0e-3}}
quickstart: {versions: ["2.7.1", "2.8.0"], collection: embedded, checkpoint: embedded}
defaults: {collection: embedded, checkpoint: embedded}
"""

_JOB = """
import base64, io, json, os, pathlib, sys, tarfile
if "harness.worker" in sys.orig_argv:
    out = pathlib.Path(sys.orig_argv[-1])
    with open(RAN, "a") as file:
        file.write(VERSION + "\\n")
    if MADE is None:
        os._exit(9)
    (out / "phase").write_text("finalize")
    tarfile.open(fileobj=io.BytesIO(base64.b64decode(MADE))).extractall(out)
    text = {"schema": 1, "outcome": "ok", "reason": "", "phase": "finalize", "seconds": {"total": 1.0},
            "provenance": {"torch": VERSION, "python": sys.version}}
    (out / "result.json").write_text(json.dumps(text))
    os._exit(0)
"""


class SmallWorld:
    """An index with what the matrix needs, and a folder with `matrix.yaml`.

    Attributes:
        index: uv's own.
        root: the folder.
        ran: gets the version of each job that was started.
    """

    def __init__(self, root: Path, index: PackageIndex) -> None:
        self.index, self.root, self.ran = index, root, root / "ran"
        root.mkdir(parents=True, exist_ok=True)
        self.matrix = root / "matrix.yaml"
        self.matrix.write_text(TEXT, encoding="utf-8")
        for name in ("stack", "faiss-cpu", "faiss-gpu"):
            index.add(name, "1.0")
        # A newer one that the matrix's date keeps out.
        index.add("sympy", "1.0")
        index.add("sympy", "2.0", uploaded="2025-06-01T00:00:00Z")

    def in_use(self, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
        """Have uv take the index for its own, and this Python, which it need not look for."""
        monkeypatch.setenv("UV_DEFAULT_INDEX", self.index.url)
        for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", f"{Path(sys.base_prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}")
        # Nobody waits for a Python of another version to be downloaded: resolving for one needs none.
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
        return self

    @property
    def options(self) -> list[str]:
        """Of any command."""
        return ["--matrix", str(self.matrix), "--home", str(self.root / "home")]

    def torch(
        self, version: str, made: int | None = 0, *, index: PackageIndex | None = None, tags: Sequence[str] = (CP311,),
        requires: Sequence[str] = ("sympy",), package: str = "torch", **more: object,
    ) -> None:  # fmt: skip
        """Put a torch into an index, whose index job makes what the seed `made` says; None: the job crashes.

        So can another `package`: of those that are installed together, the first in the alphabet does the job.
        """
        for tag in tags:
            files = {
                f"{package}/__init__.py": f"__version__ = {version!r}\n",
                f"{package}_stands_in.pth": f"import {package}_stands_in\n",
                f"{package}_stands_in.py": self._job(version, made),
            }
            (index or self.index).add(package, version, requires=requires, files=files, tag=tag, **more)  # type: ignore[arg-type]

    def _job(self, version: str, made: int | None) -> str:
        packed = None
        if made is not None:
            folder = self.root / "made" / str(made)
            if not folder.exists():
                arrays = index_arrays()
                arrays["centroids"] = index_arrays(seed=made)["centroids"]
                write_index(folder / "index", arrays)
            held = io.BytesIO()
            with tarfile.open(fileobj=held, mode="w:gz", compresslevel=1) as archive:
                archive.add(folder / "index", "index")
            packed = base64.b64encode(held.getvalue()).decode()
        head = f"RAN = {str(self.ran)!r}\nVERSION = {version!r}\nMADE = {packed!r}\n"
        return head + _JOB

    def started(self) -> list[str]:
        """Versions whose job was started, in order."""
        return self.ran.read_text().split() if self.ran.exists() else []
