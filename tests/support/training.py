"""The worker's job `train` over a few passages, as the harness would start it, in a real environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.home import Home
from harness.running.experiment import Experiment
from harness.running.job import run_worker, worker_copy
from harness.running.selection import Selection
from harness.tensors.safetensors import read_safetensors
from tests.support.real_environments import ROOT

FAULTS = Path(__file__).parent / "faults"
PASSAGES, QUERIES, STEPS = 24, 12, 3
TRAIN: dict[str, Any] = {
    "maxsteps": STEPS, "bsize": 4, "accumsteps": 2, "nway": 2, "lr": 1e-4, "warmup": 2, "use_ib_negatives": False,
    "ignore_scores": False, "distillation_alpha": 1.0, "query_maxlen": 32, "doc_maxlen": 40, "dim": 96,
    "similarity": "cosine", "threads": 1, "native_extensions": False,
}  # fmt: skip

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Trained:
    """What a job left: its result, its tensors, and its folder."""

    result: dict[str, Any]
    arrays: Arrays
    run: Path


class Training:
    """Trainings on the embedded passages, each of which is asked for by its beginning.

    Args:
        home: whose environments and caches are used.
        environments: by version.
        folder: gets everything.
        version: trains where no other is named.
        checkpoint: a folder; the embedded one when absent.
    """

    def __init__(
        self, home: Home, environments: Mapping[str, Environment], folder: Path, version: str,
        checkpoint: Path | None = None,
    ) -> None:  # fmt: skip
        self.home, self.environments, self.folder, self.version = home, environments, folder, version
        self.experiment = Experiment(
            Selection(ROOT / "matrix.yaml", home.root, "embedded", "embedded", PASSAGES, "cpu", threads=1)
        )
        self.checkpoint = checkpoint or self.experiment.checkpoint.path
        texts = list(self.experiment.passages.texts)
        self.write("passages.jsonl", texts)
        self.write("queries.jsonl", [{"qid": f"q{n}", "text": " ".join(texts[n].split()[:8])} for n in range(QUERIES)])
        lines = [(query, (query + shift) % PASSAGES) for shift in (5, 11) for query in range(QUERIES)]
        self.triples = self.write("triples.jsonl", [[query, query, other] for query, other in lines])
        self.scored = self.write("scored.jsonl", [[query, [query, 0.9], [other, 0.3]] for query, other in lines])
        self.runs = 0

    def write(self, name: str, lines: list[Any]) -> str:
        """Write JSON lines; returns the path."""
        path = self.folder / name
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return str(path)

    def train(
        self, version: str = "", *, fault: str = "", after: str = "colbert.training.training", **changes: Any
    ) -> Trained:
        """Train; `changes` are of the request, whose settings are merged, and a fault is planted `after` a module."""
        version, self.runs = version or self.version, self.runs + 1
        run = self.folder / f"run{self.runs}"
        run.mkdir()
        spec = self.experiment.spec(version)
        if fault:
            planted = {"HARNESS_TEST_FAULT": fault, "HARNESS_TEST_FAULT_AFTER": after}
            spec = replace(spec, environment={**spec.environment, **planted})
        request = {
            "job": "train", "swap": {}, "checkpoint": str(self.checkpoint), "capture": "digests",
            "passages": str(self.folder / "passages.jsonl"), "queries": str(self.folder / "queries.jsonl"),
            "triples": self.triples, **changes, "settings": {**TRAIN, **changes.get("settings", {})},
        }  # fmt: skip
        run_worker(
            spec, Interpreter(self.environments[version].python, FAULTS if fault else None), request, run, run / "out",
            worker=worker_copy(self.home), device_kind="cpu", deadline=900,
        )  # fmt: skip
        result = json.loads((run / "out" / "result.json").read_text())
        found = (run / "out" / "intermediates").glob("*.safetensors")
        return Trained(result, {path.stem: read_safetensors(path)["tensor"].data for path in found}, run)
