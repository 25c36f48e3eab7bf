"""The executor that runs a plan's cells as jobs of a Slurm cluster."""

from __future__ import annotations

from harness.errors import HarnessError, UsageError
from harness.flock import try_hold, whose
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.slurm.follower import Follower
from harness.running.slurm.record import Sweep
from harness.running.slurm.sweeps import close_sweep, sweep_path
from harness.store.cell import Cell


class SlurmExecutor:
    """Runs a plan on a cluster; see `executor.Executor`.

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
