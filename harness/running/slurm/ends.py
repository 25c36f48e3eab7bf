"""How jobs ended, by the node's word or else by Slurm's, and what that means for their cells."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from harness.flock import try_hold
from harness.running.causes import is_infrastructure, tried
from harness.running.experiment import Experiment
from harness.running.job import log_tail
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.slurm.ledger import End, Ledger, Task, read_run
from harness.running.slurm.nodes import forget_device
from harness.running.slurm.queue import (
    ENDED,
    GONE,
    HOPELESS,
    SETTLE_SECONDS,
    Job,
    cancel,
    find,
    last_words,
    log_path,
)
from harness.running.slurm.record import Options
from harness.store.cell import Cell

_UNSAID = frozenset({"COMPLETED", "FAILED", GONE})
"""States that do not say why there is no last word of the node."""


def verdict(name: str, seen: Job, minutes: int, run: tuple[str, str]) -> End:
    """What Slurm's word for the end of a job, of which the node said nothing, means for its cell."""
    host, phase = run
    where = f" on {seen.node or host}" if seen.node or host else ""
    when = f" in phase {phase}" if phase else ""
    if seen.state in {"TIMEOUT", "DEADLINE"}:
        limit = f" of {minutes} minutes" if minutes else ""
        reason = f"Slurm ended job {name}{where} at its time limit{limit}{when}."
        return End("final", "timeout", reason)
    if seen.state == "OUT_OF_MEMORY":
        reason = f"Slurm killed job {name}{where}{when} for want of memory; --slurm mem=64G asks for more."
        return End("final", "out_of_memory", reason)
    how = {
        "CANCELLED": f"Job {name} was cancelled{where}{when}.",
        "PREEMPTED": f"Job {name} was preempted{where}{when}.",
        "NODE_FAIL": f"The node of job {name} failed{where}{when}.",
        "BOOT_FAIL": f"The node of job {name} did not boot{where}.",
        "REVOKED": f"Job {name} was revoked{where}.",
        "FAILED": f"Job {name} failed{where}{when} without a word of the harness{_because(seen)}.",
        "COMPLETED": f"Job {name} ended{where}{when} without a word of the harness.",
        GONE: f"Job {name} vanished{where}{when}: neither Slurm nor its log knows how it ended.",
    }
    return End("again", reason=how.get(seen.state, f"Job {name} ended as {seen.state}{where}{when}."))


def _because(seen: Job) -> str:
    return f" ({seen.reason})" if seen.reason else ""


class Ends:
    """Says how the tasks of a sweep ended, and as which cells.

    Args:
        experiment: its store has the cells.
        ledger: has the nodes' words, and gets ours.
        options: how often a job that was lost is submitted again.
        board: shows progress.
    """

    def __init__(self, experiment: Experiment, ledger: Ledger, options: Options, board: Board) -> None:
        self.experiment, self.ledger, self.options, self.board = experiment, ledger, options, board
        self._missed: dict[tuple[str, int], float] = {}

    def of(self, planned: Planned, task: Task, jobs: Mapping[str, Job] | None) -> End | None:
        """How a task ended; None while it has not, or while nobody can say."""
        end = self.ledger.end(task)
        if end is not None:
            return end
        job = self.ledger.job(task.array)
        if job is None:
            self._find_again(task)
            return None
        if jobs is None:
            return None
        name, place = f"{job}_{task.number}", (task.array.name, task.number)
        seen = jobs.get(name, Job(GONE))
        if seen.state not in ENDED and seen.state != GONE:
            self._missed.pop(place, None)
            return self._waiting(planned, task, name, seen)
        log = log_path(task.array.folder, job, task.number)
        if seen.state in _UNSAID:
            words = last_words(log)
            if words.state != GONE:
                seen = words
            elif time.monotonic() - self._missed.setdefault(place, time.monotonic()) < SETTLE_SECONDS:
                return None
        return self.ledger.conclude(task, verdict(name, seen, task.array.minutes, read_run(task)))

    def _waiting(self, planned: Planned, task: Task, name: str, seen: Job) -> End | None:
        label = planned.spec.label
        if seen.state != "PENDING":
            self.board.phase(label, read_run(task)[1] or seen.state.lower())
            return None
        self.board.phase(label, "queued")
        if seen.held:
            cancel([name])
            return self.ledger.conclude(task, End("again", reason=f"Job {name} could not be started on its node."))
        if seen.reason in HOPELESS:
            cancel([name])
            reason = f"Job {name} would have waited for ever ({seen.reason}): change the partition or --slurm options."
            return self.ledger.conclude(task, End("final", "lost", reason))
        return None

    def _find_again(self, task: Task) -> None:
        """Find the job id of an array whose submitter died before it could note it."""
        held = try_hold(self.ledger.root / "lock")
        if held is None:
            # Somebody is submitting; the next look tells.
            return
        with held:
            array = task.array
            job = self.ledger.traces(array) or find(array.name)
            if job:
                self.ledger.submitted(array, job)
            elif job is not None and time.time() - array.created > 5:
                # sbatch was never called, or its jobs were never taken. Should one start all the same, it sees that its
                # array is gone, and ends.
                self.ledger.drop(array)

    def cell(self, planned: Planned, task: Task, end: End) -> Cell | None:
        """The cell as which a task ended; None if the cell has to be submitted again."""
        store, key = self.experiment.store, planned.spec.key
        # Where the node's run did not replace the cell, its word is beside it.
        there = store.latest(key) if end.state == "stored" else store.get(key)
        fresh = there is not None and there != planned.stored
        left = task.entry.attempt <= self.options.retries
        if end.cause == "device":
            forget_device(self.experiment.home, self.options)
        if there is not None and there.outcome == "ok" and (fresh or end.state == "stored"):
            return there
        if end.state == "final":
            return self._keep(planned, task, end.outcome, end.reason)
        reason = end.reason or "Its cell is not in the store."
        if end.state == "stored" and there is not None:
            if not (left and is_infrastructure(there)):
                return there
            reason = f"{there.outcome}: {there.reason}"
        if left:
            number, of = task.entry.attempt + 1, self.options.retries + 1
            self.board.note_once(f"{planned.spec.label}: {reason} Submitting it again ({number} of {of}).")
            return None
        if there is not None and fresh and there.details.get("cause") != "lost":
            # What the node could say, such as a disk that was full, is more than that the job was lost.
            return there
        times = f" It was submitted {task.entry.attempt} times." if task.entry.attempt > 1 else ""
        return self._keep(planned, task, "lost", f"{reason}{times}")

    def _keep(self, planned: Planned, task: Task, outcome: str, reason: str) -> Cell:
        """Store a cell of which no job could say how it ended."""
        spec, job = planned.spec, self.ledger.job(task.array) or ""
        host, phase = read_run(task)
        log = log_path(task.array.folder, job, task.number)
        about = {"job": f"{job}_{task.number}", "node": host, "attempt": task.entry.attempt}
        details: dict[str, Any] = {"slurm": about, "log_tail": log_tail(log), "tried": tried(planned.stored)}
        if outcome == "lost":
            details["cause"] = "lost"
        capture = self.experiment.job.capture
        cell = Cell.of(spec, outcome, reason, phase=phase or "queue", capture=capture, details=details)
        return self.experiment.store.put(cell, log=log)
