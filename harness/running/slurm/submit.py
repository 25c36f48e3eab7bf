"""Submitting the cells of a sweep: what a job asks Slurm for, and what happens where Slurm takes few jobs or none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Container, Sequence
from dataclasses import replace

from harness.flock import hold
from harness.inputs.jobs import JobSettings
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.slurm.queue import PATIENCE_SECONDS, Refused, largest_array, submit_array
from harness.running.slurm.record import Entry, Ledger, Options, Sweep, Task
from harness.words import count

MARGIN_SECONDS = 1800
"""Added to a cell's own deadlines for a job's time limit: waiting for another node's environment, storing the cell."""
BACKOFF_SECONDS = 30
"""Before the second try of a lost job; four times as long before each later one."""


def wall_minutes(job: JobSettings) -> int:
    """Time limit of a cell's job, where the user names none."""
    deadlines = job.deadlines
    return math.ceil((deadlines.install + deadlines.import_ + job.deadline + MARGIN_SECONDS) / 60)


def resources(options: Options, kind: str, threads: int, minutes: int, ranks: int = 1) -> dict[str, str]:
    """What one job asks sbatch for: a GPU for each rank unless it runs on a CPU, a core for each of their threads.

    And what the user says.
    """
    asked = {"time": str(minutes), "cpus-per-task": str(threads * ranks), "nodes": "1", "ntasks-per-node": "1"}
    if options.partition:
        asked["partition"] = options.partition
    if kind != "cpu" and not any(name.startswith(("gres", "gpus")) for name in options.extra):
        asked["gres"] = f"gpu:{ranks}"
    return asked | {name.replace("_", "-"): value for name, value in options.extra.items()}


class Submitter:
    """Submits the cells of one sweep, or shares the jobs of another sweep that runs them already.

    Args:
        sweep: what the user asked for.
        experiment: the same with its files found.
        ledger: gets what is submitted.
        board: shows progress.
    """

    def __init__(self, sweep: Sweep, experiment: Experiment, ledger: Ledger, board: Board) -> None:
        self.sweep, self.experiment, self.ledger, self.board = sweep, experiment, ledger, board
        # Tasks of other sweeps count if they had not ended when this sweep met them.
        self._adopted: set[tuple[str, int]] = set()
        self._refused_since: float | None = None
        self._not_before = 0.0

    def tasks(self, keys: Container[str]) -> dict[str, Task]:
        """The newest task of each of these cells, among those of this sweep and those it shares."""
        found = {}
        for task in self.ledger.tasks():
            key, place = task.entry.key, (task.array.name, task.number)
            if key in keys and (task.array.sweep == self.sweep.id or place in self._adopted):
                found[key] = task
        return found

    def submit(self, due: Sequence[tuple[Planned, int]], pending: Container[str]) -> None:
        """Submit cells, unless Slurm refused the last ones a moment ago.

        Args:
            due: cells, each with the number of this attempt.
            pending: keys of all cells that have not ended.

        Raises:
            Refused: for good, or for an hour in which nothing of the sweep was in the queue.
        """
        if not due or time.monotonic() < self._not_before:
            return
        with hold(self.ledger.root / "lock"):
            self.ledger.refresh()
            running = {t.entry.key: t for t in self.ledger.tasks() if self.ledger.end(t) is None}
            missing: dict[int, list[Entry]] = {}
            for planned, attempt in due:
                spec = planned.spec
                if (task := running.get(spec.key)) is not None:
                    self._adopted.add((task.array.name, task.number))
                else:
                    stored = planned.stored
                    replaces = stored.finished if stored is not None and stored.outcome == "ok" else ""
                    entry = Entry(spec.key, spec.version, spec.repeat, attempt, replaces)
                    missing.setdefault(attempt, []).append(entry)
            size = largest_array() if missing else 1
            for attempt, entries in missing.items():
                rest = entries
                while rest:
                    if not (taken := self._submit_some(rest[:size], attempt, pending)):
                        return
                    rest = rest[taken:]

    def _submit_some(self, entries: list[Entry], attempt: int, pending: Container[str]) -> int:
        """Submit as many of `entries` as the cluster takes now; returns how many those are."""
        experiment, options = self.experiment, self.sweep.options
        minutes = wall_minutes(experiment.job)
        asked = {"requeue": ""}
        if attempt > 1:
            asked["begin"] = f"now+{BACKOFF_SECONDS * 4 ** (attempt - 2)}"
        asked |= resources(options, experiment.device.kind, experiment.job.threads, minutes, experiment.job.ranks)
        # What the nodes are told; the capture level and the threads are those of this experiment.
        selection = replace(experiment.selection, identity=experiment.device.identity)
        named = options.extra.get("time")
        # 0 where the user named a limit in one of Slurm's other notations.
        said = minutes if named is None else int(named) if named.isdigit() else 0
        while entries:
            array = self.ledger.create(self.sweep, selection, entries, said, time.time())
            command = [sys.executable, "-m", "harness.running.slurm.node", str(array.folder)]
            try:
                job = submit_array(array.folder, array.name, command, len(entries), asked, options.at_once)
            except Refused as error:
                self.ledger.drop(array)
                if not error.temporary:
                    raise
                if len(entries) == 1:
                    self._refused(error, pending)
                    return 0
                # A user may have so many jobs and no more: fewer at once, the others when some have ended.
                entries = entries[: len(entries) // 2]
                continue
            self.ledger.submitted(array, job)
            self._refused_since = None
            self.board.note_once(f"Submitted {count(len(entries), 'cell')} as job {job}.")
            return len(entries)
        return 0

    def _refused(self, error: Refused, pending: Container[str]) -> None:
        now = time.monotonic()
        self._not_before = now + BACKOFF_SECONDS
        self._refused_since = self._refused_since if self._refused_since is not None else now
        self.board.note_once(f"{error} The others are submitted later.")
        in_queue = any(self.ledger.end(task) is None for task in self.tasks(pending).values())
        if not in_queue and now - self._refused_since > PATIENCE_SECONDS:
            raise error
