"""Run a worker's job other than indexing: its result is a folder of files, which the caller reads and throws away."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.cells import CellSpec
from harness.gpus import gpu_turn
from harness.home import Home
from harness.runner import Interpreter, job_deadlines, log_tail, read_result, worker_copy, worker_environment
from harness.supervise import run_folder, supervise


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        outcome: one of the store's outcomes.
        reason: one sentence where it is not `ok`.
        out: the folder with what the job wrote.
        result: the worker's own result; empty if it wrote none.
        log_tail: the end of what it printed.
    """

    outcome: str
    reason: str
    out: Path
    result: dict[str, Any]
    log_tail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.outcome == "ok"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@dataclass(frozen=True)
class Workbench:
    """What jobs of one experiment have in common.

    Attributes:
        home: for run folders and the worker.
        checkpoint: an absolute folder.
        device_kind: `cpu` or `cuda`.
        deadline: wall seconds for one job.
        say: called with a sentence when a job has to wait for its GPU.
    """

    home: Home
    checkpoint: Path
    device_kind: str = "cpu"
    deadline: float = 3600.0
    say: Callable[[str], object] = _say

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A folder for job results that lasts as long as the `with` block."""
        with run_folder(self.home, name) as (folder, _held):
            yield folder

    def run(self, spec: CellSpec, interpreter: Interpreter, job: str, request: dict[str, Any], out: Path) -> JobResult:
        """Run `job` in one environment.

        Args:
            spec: gives the environment variables and the settings; its own job is not looked at.
            interpreter: of the environment.
            job: a name in `harness.worker.jobs`.
            request: what the job wants beside device, checkpoint and settings.
            out: gets the job's files; made if it does not exist.
        """
        out.mkdir(parents=True, exist_ok=True)
        settings = {**spec.settings, **request.get("settings", {})}
        full = {
            "schema": 1, "job": job, "key": spec.key, "device": self.device_kind, "checkpoint": str(self.checkpoint),
            **request, "settings": settings,
        }  # fmt: skip
        turn = gpu_turn(self.home, self.device_kind, self.say)
        with turn as places, run_folder(self.home, f"{spec.version}-{job}") as (run, held):
            (run / "tmp").mkdir()
            (run / "cell.json").write_text(json.dumps(full, indent=1))
            worker = worker_copy(self.home)
            environment = worker_environment(replace(spec, job=job), interpreter, worker, run, self.device_kind)
            command = [str(interpreter.python), "-m", "harness.worker", str(run / "cell.json"), str(out)]
            ended = supervise(
                command, environment=environment, run=run, deadlines=job_deadlines(self.deadline), phase=out / "phase",
                hold=[held.fileno(), *places],
            )  # fmt: skip
            result, outcome, reason = read_result(out, ended)
            return JobResult(outcome, reason, out, result, log_tail(run / "log.txt", ended.unwritten))
