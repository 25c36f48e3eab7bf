"""Run a plan on a Slurm cluster: one job for each missing cell, in arrays, followed to its end from any login node.

Store and environments are on a filesystem that the nodes share, and so is a record of what was submitted
(`slurm_jobs`). Nothing is known only to the process that follows: kill it, and `harness sweep --attach` goes on from
the record. Two sweeps that need the same cell at once share its job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.environments.build import evict, find_environment
from harness.errors import InfrastructureError
from harness.flock import hold, try_hold
from harness.running.causes import is_infrastructure, tried
from harness.running.experiment import Experiment
from harness.running.job import log_tail
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.running.slurm.ends import UNSAID, verdict
from harness.running.slurm.ledger import End, Entry, Ledger, Task, read_run
from harness.running.slurm.nodes import forget_device
from harness.running.slurm.queue import (
    ENDED,
    GONE,
    HOPELESS,
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
    Job,
    Refused,
    cancel,
    find,
    largest_array,
    last_words,
    log_path,
    states,
    submit_array,
)
from harness.running.slurm.record import Sweep, root_of
from harness.running.slurm.submit import BACKOFF_SECONDS, plain_options, resources, wall_minutes
from harness.store.cell import Cell
from harness.words import count


class Follower:
    """Takes one sweep to its end: submits what is missing, looks at the queue, takes in what nodes left."""

    def __init__(
        self, sweep: Sweep, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool
    ) -> None:
        self.sweep, self.experiment, self.plan, self.board = sweep, experiment, plan, board
        self.evict_after = evict_after
        self.root = root_of(experiment.home)
        self.ledger = Ledger(self.root)
        self.cells: dict[str, Cell] = {}
        self.pending: dict[str, Planned] = {}
        # Tasks of other sweeps count if they had not ended when this sweep met them.
        self.adopted: set[tuple[str, int]] = set()
        self.missed: dict[tuple[str, int], float] = {}
        self.silent_since: float | None = None
        self.refused_since: float | None = None
        self.not_before = 0.0
        self.noted: set[str] = set()

    # ---- the loop

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
        jobs = {self.ledger.job(task.array) for task in self._mine().values() if self.ledger.end(task) is None}
        known = sorted(job for job in jobs if job)
        if known:
            self.board.note(
                f"{count(len(self.pending), 'cell')} still in the queue: `harness sweep --attach {self.sweep.id}` "
                f"picks them up, `scancel {' '.join(known)}` stops them."
            )

    def _mine(self) -> dict[str, Task]:
        """The newest task of each pending cell, among those of this sweep and those it shares."""
        found = {}
        for task in self.ledger.tasks():
            key, place = task.entry.key, (task.array.name, task.number)
            if key in self.pending and (task.array.sweep == self.sweep.id or place in self.adopted):
                found[key] = task
        return found

    def step(self) -> None:
        """Look once at the queue and at what nodes left, and submit what is due."""
        tasks = self._mine()
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
            end = self._end(planned, task, jobs)
            if end is not None and self._settled(planned, task, end):
                due.append((planned, task.entry.attempt + 1))
        if due and time.monotonic() >= self.not_before:
            self._submit(due)

    def _ask(self, tasks: Mapping[str, Task]) -> dict[str, Job] | None:
        open_tasks = [task for task in tasks.values() if self.ledger.end(task) is None]
        known = (self.ledger.job(array) for array in {task.array.name: task.array for task in open_tasks}.values())
        jobs = states([job for job in known if job])
        if jobs is not None:
            self.silent_since = None
            return jobs
        now = time.monotonic()
        self.silent_since = self.silent_since if self.silent_since is not None else now
        self._note_once("Slurm's controller does not answer; the jobs may run on, and are looked at again.")
        if now - self.silent_since > PATIENCE_SECONDS:
            raise InfrastructureError(
                f"Slurm's controller has not answered for {PATIENCE_SECONDS / 60:.0f} minutes: when it does, "
                f"`harness sweep --attach {self.sweep.id}` goes on."
            )
        return None

    def _note_once(self, text: str) -> None:
        if text not in self.noted:
            self.noted.add(text)
            self.board.note(text)

    # ---- one task

    def _end(self, planned: Planned, task: Task, jobs: dict[str, Job] | None) -> End | None:
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
            self.missed.pop(place, None)
            return self._waiting(planned, task, name, seen)
        log = log_path(task.array.folder, job, task.number)
        if seen.state in UNSAID:
            words = last_words(log)
            if words.state != GONE:
                seen = words
            elif time.monotonic() - self.missed.setdefault(place, time.monotonic()) < SETTLE_SECONDS:
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
        held = try_hold(self.root / "lock")
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

    def _settled(self, planned: Planned, task: Task, end: End) -> bool:  # noqa: PLR0911 - one for each way to end
        """Take the end of a task as that of its cell; True if the cell has to be submitted again instead."""
        store, key = self.experiment.store, planned.spec.key
        # Where the node's run did not replace the cell, its word is beside it.
        there = store.latest(key) if end.state == "stored" else store.get(key)
        fresh = there is not None and there != planned.stored
        left = task.entry.attempt <= self.sweep.options.retries
        if end.cause == "device":
            forget_device(self.experiment.home, self.sweep.options)
        if there is not None and there.outcome == "ok" and (fresh or end.state == "stored"):
            self._accept(planned, there)
            return False
        if end.state == "stored" and there is not None:
            if is_infrastructure(there) and left:
                return self._again(planned, task, f"{there.outcome}: {there.reason}")
            self._accept(planned, there)
            return False
        if end.state == "final":
            self._accept(planned, self._keep(planned, task, end.outcome, end.reason, end.outcome))
            return False
        reason = end.reason or "Its cell is not in the store."
        if left:
            return self._again(planned, task, reason)
        if there is not None and fresh and there.details.get("cause") != "lost":
            # What the node could say, such as a disk that was full, is more than that the job was lost.
            self._accept(planned, there)
            return False
        times = f" It was submitted {task.entry.attempt} times." if task.entry.attempt > 1 else ""
        self._accept(planned, self._keep(planned, task, "lost", f"{reason}{times}", "lost"))
        return False

    def _again(self, planned: Planned, task: Task, reason: str) -> bool:
        number, of = task.entry.attempt + 1, self.sweep.options.retries + 1
        self._note_once(f"{planned.spec.label}: {reason} Submitting it again ({number} of {of}).")
        return True

    def _keep(self, planned: Planned, task: Task, outcome: str, reason: str, cause: str) -> Cell:
        """Store a cell of which no job could say how it ended."""
        spec, job = planned.spec, self.ledger.job(task.array) or ""
        host, phase = read_run(task)
        log = log_path(task.array.folder, job, task.number)
        about = {"job": f"{job}_{task.number}", "node": host, "attempt": task.entry.attempt}
        details: dict[str, Any] = {"slurm": about, "log_tail": log_tail(log), "tried": tried(planned.stored)}
        if cause == "lost":
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
        if used or experiment.selection.sites is not None:
            return
        found = find_environment(experiment.home, experiment.locks, version, experiment.device.flavour)
        if found is not None:
            keep = [experiment.lock(other) for other in {p.spec.version for p in self.pending.values()}]
            freed = evict(experiment.home, found, keep)
            if freed is not None:
                self.board.note(f"{version}: deleted the environment ({freed / 2**30:.1f} GiB freed)")

    # ---- submitting

    def _submit(self, due: Sequence[tuple[Planned, int]]) -> None:
        """Submit cells, or share the jobs of another sweep that runs them already."""
        with hold(self.root / "lock"):
            self.ledger.refresh()
            running = {t.entry.key: t for t in self.ledger.tasks() if self.ledger.end(t) is None}
            missing: dict[int, list[Entry]] = {}
            for planned, attempt in due:
                spec = planned.spec
                task = running.get(spec.key)
                if task is not None:
                    self.adopted.add((task.array.name, task.number))
                else:
                    stored = planned.stored
                    replaces = stored.finished if stored is not None and stored.outcome == "ok" else ""
                    entry = Entry(spec.key, spec.version, spec.repeat, attempt, replaces)
                    missing.setdefault(attempt, []).append(entry)
            size = largest_array() if missing else 1
            for attempt, entries in missing.items():
                rest = entries
                while rest:
                    taken = self._submit_some(rest[:size], attempt)
                    if not taken:
                        return
                    rest = rest[taken:]

    def _submit_some(self, entries: list[Entry], attempt: int) -> int:
        """Submit as many of `entries` as the cluster takes now; returns how many those are."""
        minutes = wall_minutes(self.experiment.job)
        named = self.sweep.options.extra.get("time")
        # 0 where the user named a limit in one of Slurm's other notations.
        said = minutes if named is None else int(named) if named.isdigit() else 0
        while entries:
            array = self.ledger.create(self.sweep, self._selection(), entries, said, time.time())
            command = [sys.executable, "-m", "harness.running.slurm.node", str(array.folder)]
            try:
                parameters = self._parameters(minutes, attempt)
                job = submit_array(array.folder, array.name, command, len(entries), parameters)
            except Refused as error:
                self.ledger.drop(array)
                if not error.temporary:
                    raise
                if len(entries) == 1:
                    self._refused(error)
                    return 0
                # A user may have so many jobs and no more: fewer at once, the others when some have ended.
                entries = entries[: len(entries) // 2]
                continue
            self.ledger.submitted(array, job)
            self.refused_since = None
            self._note_once(f"Submitted {count(len(entries), 'cell')} as job {job}.")
            return len(entries)
        return 0

    def _refused(self, error: Refused) -> None:
        now = time.monotonic()
        self.not_before = now + BACKOFF_SECONDS
        self.refused_since = self.refused_since if self.refused_since is not None else now
        self._note_once(f"{error} The others are submitted later.")
        in_queue = any(self.ledger.end(task) is None for task in self._mine().values())
        if not in_queue and now - self.refused_since > PATIENCE_SECONDS:
            raise error

    def _selection(self) -> Selection:
        """What the nodes are told; the capture level and the threads are those of this experiment."""
        return replace(self.sweep.selection, identity=self.experiment.device.identity)

    def _parameters(self, minutes: int, attempt: int) -> dict[str, Any]:
        experiment, options = self.experiment, self.sweep.options
        extra: dict[str, Any] = {"requeue": True}
        if attempt > 1:
            extra["begin"] = f"now+{BACKOFF_SECONDS * 4 ** (attempt - 2)}"
        return {
            **resources(options, experiment.device.kind, experiment.job.threads, minutes),
            "array_parallelism": options.at_once,
            "additional_parameters": {**extra, **plain_options(options)},
        }
