"""Run a plan on a Slurm cluster: one job for each missing cell, in arrays, followed to its end from any login node.

Nothing is known only to the process that follows: `harness sweep --attach` goes on from what is on disk (`record`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from harness.environments.build import evict
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.flock import try_hold, whose
from harness.running.causes import is_infrastructure, tried
from harness.running.experiment import Experiment
from harness.running.job import log_tail
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.slurm.queue import (
    ENDED,
    GONE,
    HOPELESS,
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
    Job,
    cancel,
    find,
    last_words,
    log_path,
    states,
)
from harness.running.slurm.record import End, Ledger, Sweep, Task, read_run, root_of
from harness.running.slurm.start import close_sweep, forget_device, sweep_path
from harness.running.slurm.submit import Submitter
from harness.store.cell import Cell
from harness.words import count

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
    because = f" ({seen.reason})" if seen.reason else ""
    how = {
        "CANCELLED": f"Job {name} was cancelled{where}{when}.",
        "PREEMPTED": f"Job {name} was preempted{where}{when}.",
        "NODE_FAIL": f"The node of job {name} failed{where}{when}.",
        "BOOT_FAIL": f"The node of job {name} did not boot{where}.",
        "REVOKED": f"Job {name} was revoked{where}.",
        "FAILED": f"Job {name} failed{where}{when} without a word of the harness{because}.",
        "COMPLETED": f"Job {name} ended{where}{when} without a word of the harness.",
        GONE: f"Job {name} vanished{where}{when}: neither Slurm nor its log knows how it ended.",
    }
    return End("again", reason=how.get(seen.state, f"Job {name} ended as {seen.state}{where}{when}."))


class Follower:
    """Takes one sweep to its end: submits what is missing, looks at the queue, takes in what nodes left."""

    def __init__(
        self, sweep: Sweep, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool
    ) -> None:
        self.sweep, self.experiment, self.plan, self.board = sweep, experiment, plan, board
        self.evict_after = evict_after
        self.ledger = Ledger(root_of(experiment.home))
        self.submitter = Submitter(sweep, experiment, self.ledger, board)
        self.cells: dict[str, Cell] = {}
        self.pending: dict[str, Planned] = {}
        self._silent_since: float | None = None
        self._missed: dict[tuple[str, int], float] = {}

    def follow(self) -> list[Cell]:
        """Submit what is missing, and wait until all of it has ended."""
        # A cell that is stored may be under way again, in a sweep that was told to run it once more.
        running = {
            task.entry.key
            for task in self.ledger.tasks()
            if task.array.sweep == self.sweep.id and self.ledger.end(task) is None
        }
        for planned in self.plan:
            key, stored = planned.spec.key, planned.stored
            if planned.run or stored is None or key in running or self.experiment.store.missing(stored):
                self.pending[key] = planned
            else:
                self.cells[key] = self.board.done(stored, ran=False)
        started = time.monotonic()
        while self.pending:
            self.step()
            if self.pending:
                # At once in the beginning, every quarter of a minute later: the controller is everybody's.
                time.sleep(min(15.0, max(0.5, (time.monotonic() - started) / 20)))
        return [self.cells[planned.spec.key] for planned in self.plan]

    def has_jobs(self) -> bool:
        """Whether anything was submitted, so that there is something to go on with."""
        return any(array.sweep == self.sweep.id for array in self.ledger.arrays())

    def leave(self) -> None:
        """Say what goes on without us."""
        jobs = {
            self.ledger.job(task.array)
            for task in self.submitter.tasks(self.pending).values()
            if self.ledger.end(task) is None
        }
        if known := sorted(job for job in jobs if job):
            self.board.note(
                f"{count(len(self.pending), 'cell')} still in the queue: `harness sweep --attach {self.sweep.id}` "
                f"picks them up, `scancel {' '.join(known)}` stops them."
            )

    def step(self) -> None:
        """Look once at the queue and at what nodes left, and submit what is due."""
        tasks = self.submitter.tasks(self.pending)
        # First the controller, then the disk: a job that is gone has said its last word before it went.
        jobs = self._ask(tasks)
        self.ledger.refresh()
        due: list[tuple[Planned, int]] = []
        for key, planned in list(self.pending.items()):
            task = tasks.get(key)
            if task is None:
                there = self.experiment.store.get(key)
                if there is not None and there != planned.stored:
                    self._accept(planned, there)
                else:
                    due.append((planned, 1))
                continue
            if (end := self._end_of(planned, task, jobs)) is None:
                continue
            if (cell := self._cell_of(planned, task, end)) is not None:
                self._accept(planned, cell)
            else:
                due.append((planned, task.entry.attempt + 1))
        self.submitter.submit(due, self.pending)

    def _ask(self, tasks: Mapping[str, Task]) -> dict[str, Job] | None:
        open_tasks = [task for task in tasks.values() if self.ledger.end(task) is None]
        known = (self.ledger.job(array) for array in {task.array.name: task.array for task in open_tasks}.values())
        jobs = states([job for job in known if job])
        if jobs is not None:
            self._silent_since = None
            return jobs
        now = time.monotonic()
        self._silent_since = self._silent_since if self._silent_since is not None else now
        self.board.note_once("Slurm's controller does not answer; the jobs may run on, and are looked at again.")
        if now - self._silent_since > PATIENCE_SECONDS:
            raise InfrastructureError(
                f"Slurm's controller has not answered for {PATIENCE_SECONDS / 60:.0f} minutes: when it does, "
                f"`harness sweep --attach {self.sweep.id}` goes on."
            )
        return None

    def _end_of(self, planned: Planned, task: Task, jobs: Mapping[str, Job] | None) -> End | None:
        """How a task ended; None while it has not, or while nobody can say."""
        if (end := self.ledger.end(task)) is not None:
            return end
        if (job := self.ledger.job(task.array)) is None:
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
        if (held := try_hold(self.ledger.root / "lock")) is None:
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

    def _cell_of(self, planned: Planned, task: Task, end: End) -> Cell | None:
        """The cell as which a task ended; None if the cell has to be submitted again."""
        store, key = self.experiment.store, planned.spec.key
        # Where the node's run did not replace the cell, its word is beside it.
        there = store.latest(key) if end.state == "stored" else store.get(key)
        fresh = there is not None and there != planned.stored
        left = task.entry.attempt <= self.sweep.options.retries
        if end.cause == "device":
            forget_device(self.experiment.home, self.sweep.options)
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
            number, of = task.entry.attempt + 1, self.sweep.options.retries + 1
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

    def _accept(self, planned: Planned, cell: Cell) -> None:
        key = planned.spec.key
        del self.pending[key]
        self.cells[key] = self.board.done(cell, ran=True)
        version = planned.spec.version
        if self.evict_after and all(other.spec.version != version for other in self.pending.values()):
            self._evict(version)

    def _evict(self, version: str) -> None:
        experiment = self.experiment
        used = any(t.entry.version == version and self.ledger.end(t) is None for t in self.ledger.tasks())
        found = None if used else experiment.environment(version).there(experiment.device.flavour)
        if found is not None:
            keep = [experiment.lock(other) for other in {p.spec.version for p in self.pending.values()}]
            if (freed := evict(experiment.home, found, keep)) is not None:
                self.board.note(f"{version}: deleted the environment ({freed / 2**30:.1f} GiB freed)")


class SlurmExecutor:
    """Runs a plan on a cluster; see `sweep.Executor`.

    Args:
        sweep: what the user asked for; its record is in the home.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def run(self, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
        """See `Executor.run`. An interrupt leaves the jobs in the queue.

        Raises:
            UsageError: another process follows this sweep, or sbatch refuses its jobs for good.
            InfrastructureError: the controller has not answered for an hour.
        """
        path = sweep_path(experiment.home, self.sweep.id).with_suffix(".lock")
        if (held := try_hold(path)) is None:
            raise UsageError(f"{whose(path)} follows this sweep already.")
        with held:
            follower = Follower(self.sweep, experiment, plan, board, evict_after=evict_after)
            try:
                return follower.follow()
            except KeyboardInterrupt:
                follower.leave()
                raise
            except HarnessError:
                if not follower.has_jobs():
                    close_sweep(experiment.home, self.sweep)
                raise
