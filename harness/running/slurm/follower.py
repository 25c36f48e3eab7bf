"""Run a plan on a Slurm cluster: one job for each missing cell, in arrays, followed to its end from any login node.

Store and environments are on a filesystem that the nodes share, and so is a record of what was submitted
(`slurm_jobs`). Nothing is known only to the process that follows: kill it, and `harness sweep --attach` goes on from
the record. Two sweeps that need the same cell at once share its job.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from harness.environments.build import evict, find_environment
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.flock import try_hold, whose
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.slurm.ends import Ends
from harness.running.slurm.ledger import Ledger, Task
from harness.running.slurm.queue import PATIENCE_SECONDS, Job, states
from harness.running.slurm.record import Sweep, root_of
from harness.running.slurm.submit import Submitter
from harness.running.slurm.sweeps import close_sweep, sweep_path
from harness.store.cell import Cell
from harness.words import count


class Follower:
    """Takes one sweep to its end: submits what is missing, looks at the queue, takes in what nodes left."""

    def __init__(
        self, sweep: Sweep, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool
    ) -> None:
        self.sweep, self.experiment, self.plan, self.board = sweep, experiment, plan, board
        self.evict_after = evict_after
        self.ledger = Ledger(root_of(experiment.home))
        self.submitter = Submitter(sweep, experiment, self.ledger, board)
        self.ends = Ends(experiment, self.ledger, sweep.options, board)
        self.cells: dict[str, Cell] = {}
        self.pending: dict[str, Planned] = {}
        self._silent_since: float | None = None

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
        known = sorted(job for job in jobs if job)
        if known:
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
            end = self.ends.of(planned, task, jobs)
            if end is None:
                continue
            cell = self.ends.cell(planned, task, end)
            if cell is not None:
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
        held = try_hold(path)
        if held is None:
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
