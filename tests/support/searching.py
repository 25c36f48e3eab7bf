"""The worker's job `search` over a small index, as the harness would start it, in a real environment."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.directory import IndexDirectory
from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.home import Home
from harness.running.experiment import Experiment
from harness.running.job import run_worker, worker_copy, worker_environment
from harness.running.selection import Selection
from harness.tensors.safetensors import read_safetensors, write_safetensors
from tests.support.real_environments import ROOT

FAULTS = Path(__file__).parent / "faults"
BARE, NATIVE = (Path(__file__).with_name(f"{name}.py") for name in ("bare_search", "native_kernels"))
PASSAGES, TWICE, QUERIES = 56, 8, 6
SMALL = {"index_bsize": 8, "doc_maxlen": 40, "threads": 1, "native_extensions": False}
SEARCH = {"k": 10, "ncells": 2, "centroid_score_threshold": 0.5, "ndocs": 96, "query_maxlen": 32}

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Searched:
    """What a job left: its result, its tensors, and the request."""

    result: dict[str, Any]
    arrays: Arrays
    cell: Path


class Searching:
    """An index of the embedded passages, of which the first `TWICE` are there twice, and searches of it.

    Args:
        home: whose environments and caches are used.
        environments: by version.
        folder: gets everything.
        version: makes the index.
    """

    def __init__(self, home: Home, environments: Mapping[str, Environment], folder: Path, version: str) -> None:
        self.home, self.environments, self.folder, self.version = home, environments, folder, version
        self.experiment = Experiment(
            Selection(ROOT / "matrix.yaml", home.root, "embedded", "embedded", PASSAGES, "cpu", threads=1)
        )
        texts = list(self.experiment.passages.texts)
        (folder / "passages.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts + texts[:TWICE]))
        # The beginning of a passage asks for it.
        asked = [" ".join(text.split()[:8]) for text in texts[::8][:QUERIES]]
        self.queries = folder / "queries.jsonl"
        self.queries.write_text(
            "".join(json.dumps({"qid": f"q{n}", "text": text}) + "\n" for n, text in enumerate(asked))
        )
        self.runs = 0
        run = self._run(version, {"job": "index", "passages": str(folder / "passages.jsonl"), "capture": "final"})
        self.made = run / "out" / "index"
        self.clean = folder / "clean"
        self._copy()

    def _copy(self) -> None:
        self.clean.mkdir()
        held = IndexDirectory(self.made)
        for name in held.names():
            tensor = held.load(name)
            write_safetensors(self.clean / f"{name}.safetensors", {"tensor": tensor})
        for path in self.made.glob("*.json"):
            shutil.copy(path, self.clean)

    def _run(self, version: str, request: dict[str, Any], fault: str = "") -> Path:
        self.runs += 1
        run = self.folder / f"run{self.runs}"
        run.mkdir()
        if "index" in request:
            # As the harness does: the job turns it into colbert-ai's, and nothing of it is left.
            request |= {"index": str(shutil.copytree(request["index"], run / "index"))}
        spec = self.experiment.spec(version)
        if fault:
            planted = {"HARNESS_TEST_FAULT": fault, "HARNESS_TEST_FAULT_AFTER": "colbert.searcher"}
            spec = replace(spec, environment={**spec.environment, **planted})
        request = {
            "swap": {}, "checkpoint": str(self.experiment.checkpoint.path),
            "settings": {**spec.settings, **SMALL, **request.pop("settings", {})}, **request,
        }  # fmt: skip
        run_worker(
            spec, Interpreter(self.environments[version].python, FAULTS if fault else None), request, run, run / "out",
            worker=worker_copy(self.home), device_kind="cpu", deadline=900,
        )  # fmt: skip
        return run

    def search(self, version: str = "", *, fault: str = "", **changes: Any) -> Searched:
        """Search; `changes` are of the request, whose settings are merged."""
        settings = {**SEARCH, **changes.pop("settings", {})}
        request = {"job": "search", "index": str(self.clean), "queries": str(self.queries), "capture": "full"}
        run = self._run(version or self.version, {**request, **changes, "settings": settings}, fault)
        result = json.loads((run / "out" / "result.json").read_text())
        found = (run / "out" / "intermediates").glob("*.safetensors")
        arrays = {path.stem: read_safetensors(path)["tensor"].data for path in found}
        return Searched(result, arrays, run / "cell.json")

    def job(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """Run another job of the worker; returns its result."""
        run = self._run(self.version, {"job": name, **request})
        found: dict[str, Any] = json.loads((run / "out" / "result.json").read_text())
        return found

    def centroids(self) -> np.ndarray[Any, Any]:
        """The index's centroids, float16."""
        return read_safetensors(self.clean / "centroids.safetensors")["tensor"].data

    def native(self, version: str, script: Path, *arguments: str) -> str:
        """Run a script in an environment, with what colbert-ai compiles in a folder of this session."""
        spec, interpreter = self.experiment.spec(version), Interpreter(self.environments[version].python)
        environment = worker_environment(spec, interpreter, worker_copy(self.home), self.folder, "cpu")
        environment |= {"TORCH_EXTENSIONS_DIR": str(self.folder / "extensions"), "HOME": str(self.folder)}
        environment |= {"TMPDIR": str(self.folder), "OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            [str(interpreter.python), str(script), *arguments], env=environment, cwd=self.folder, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout
