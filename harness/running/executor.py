"""Where the cells of a plan run: on this machine, or wherever another implementation of `Executor` takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.environments.gpus import Gpu, choose_gpus
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.sweep import run_plan
from harness.store.cell import Cell


class Executor(Protocol):
    """Runs a plan; the store is where its cells end, whoever ran them."""

    def run(self, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
        """Run the cells that a plan says, and return those of the whole plan in its order.

        A cell that is not among them did not run, because the user stopped the sweep; whatever else happened to a
        cell is its outcome.

        Args:
            experiment: collection, checkpoint, device and settings.
            plan: from `plan_cells`.
            board: shows progress.
            evict_after: delete each environment as soon as its cells are stored.

        Raises:
            HarnessError: not one cell could start, or nothing can be stored; the sentence says what to mend.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Runs cells on this machine.

    Attributes:
        gpus: one cell at a time runs on each; all visible GPUs of the device's model when None.
        jobs: how many cells run at a time on each of them, or on the CPU.
    """

    gpus: tuple[Gpu, ...] | None = None
    jobs: int = 1

    def run(self, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
        """See `Executor.run`."""
        gpus = choose_gpus(experiment.device, None) if self.gpus is None else self.gpus
        return run_plan(experiment, plan, board, evict_after=evict_after, gpus=gpus, jobs=self.jobs)
