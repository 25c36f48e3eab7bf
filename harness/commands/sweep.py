"""`harness sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import (
    Writable,
    axis_option,
    capture_option,
    cluster_options,
    evict_option,
    local_options,
    markdown_option,
    repeats_option,
    sites_options,
    table_options,
)
from harness.errors import ExitCode, InfrastructureError, UsageError, printable

_MOST_HOURS = 1_000_000

if TYPE_CHECKING:
    from harness.running.experiment import Experiment
    from harness.running.plan import Planned
    from harness.running.selection import Selection
    from harness.running.slurm.record import Sweep
    from harness.running.sweep import Executor
    from harness.store.cell import Cell


def _hours(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    # A range lets what is not a number through.
    if value is not None and not value < _MOST_HOURS:
        raise click.BadParameter(f"{value:g} is not a number of hours below {_MOST_HOURS:,}.")
    return value


@click.command(name="sweep")
@click.argument("versions", nargs=-1)
@table_options
@axis_option
@sites_options
@repeats_option
@local_options
@capture_option
@evict_option
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    callback=_hours,
    metavar="HOURS",
    help="Run cells again that ended longer ago than this, as a nightly sweep does (docs/nightly.md).",
)
@click.option("--output", type=Writable(), help="Folder of the tables.")
@markdown_option
@cluster_options
def command(
    versions: tuple[str, ...],
    repeats: tuple[str, ...],
    evict: bool,
    older_than: float | None,
    output: Path | None,
    markdown: bool,
    gpus: str | None,
    jobs: int,
    cluster: dict[str, Any],
    **options: Any,
) -> int:
    """Index, search, or train with VERSIONS (default: all), then reduce to tables. Stored cells are not run again.

    One version that fails does not stop the others. Ctrl-C once lets the running cells end and reduces what is there;
    twice ends them at once. Exit code 3 when a cell ended badly or did not run, 1 when a pair differs beyond the noise
    floor.
    """
    from harness.environments.device import choose_gpus
    from harness.files import writable_folder
    from harness.report.console import print_headline
    from harness.report.reduce import reduce_cells, results_name
    from harness.running.checks import parse_repeats, to_run, versions_of
    from harness.running.choice import planned_cells
    from harness.running.plan import plan_cells, run_needed, run_older, stopped_early
    from harness.running.progress import Board
    from harness.running.selection import Selection
    from harness.running.sweep import LocalExecutor

    sweep = _on_cluster(Selection(**options), versions, repeats, gpus, cluster, evict=evict, output=output)
    experiment = to_run(sweep.selection if sweep else Selection(**options))
    executor: Executor
    if sweep:
        from harness.running.slurm.follower import SlurmExecutor

        executor, chosen, extra_runs = SlurmExecutor(sweep), sweep.versions, sweep.repeats
        evict, output = sweep.evict, sweep.output
    else:
        executor = LocalExecutor(tuple(choose_gpus(experiment.device, gpus)), jobs)
        chosen = versions_of(experiment, versions)
        extra_runs = parse_repeats(experiment, repeats, chosen)

    def run(of: Experiment, planned: list[Planned]) -> list[Cell]:
        with Board([one.spec.label for one in planned]) as board:
            return executor.run(of, planned, board, evict_after=evict)

    ready, without = run_needed(experiment, chosen, run)
    for cell in without:
        click.echo(printable(f"{cell.label}: {cell.outcome}: {cell.reason}"), err=True)
    if not ready:
        raise InfrastructureError("There is no index to search: not one of those that are needed could be made.")
    plan = plan_cells(experiment, ready, {version: extra_runs[version] for version in ready if version in extra_runs})
    if older_than is not None:
        plan = run_older(plan, older_than)
    folder = output or experiment.home.tables / results_name(
        plan[0].spec, experiment.selection.searched, experiment.matrix.common_axis(chosen)
    )
    writable_folder(folder, "--output")
    cells = run(experiment, plan)
    early = stopped_early(plan, cells)
    if not cells:
        raise InfrastructureError(early)
    reduced = reduce_cells(experiment.matrix, planned_cells(experiment, cells), chosen, folder, lambda: experiment)
    print_headline(reduced, markdown=markdown)
    click.echo(f"Tables: {folder}")
    if sweep is not None:
        from harness.running.slurm.start import close_sweep

        close_sweep(experiment.home, sweep)
    if early:
        click.echo(early, err=True)
    if early or any(cell.failed for cell in (*cells, *without)):
        return int(ExitCode.INFRASTRUCTURE)
    return int(ExitCode.DIVERGENCE if reduced.diverged else ExitCode.OK)


def _on_cluster(
    selection: Selection, versions: Sequence[str], repeats: Sequence[str], gpus: str | None, cluster: dict[str, Any],
    *, evict: bool, output: Path | None,
) -> Sweep | None:  # fmt: skip
    """The sweep over Slurm that is meant; None for one on this machine. No option may silently do nothing."""
    if cluster.pop("executor_name") != "slurm" and cluster["attach"] is None:
        if cluster["partition"] or cluster["extra"]:
            raise UsageError("--partition and --slurm are for Slurm: give --executor slurm, too, or leave them out.")
        return None
    if gpus is not None:
        raise UsageError("--gpus chooses among this machine's GPUs: over Slurm, use --slurm gres=… instead.")
    from harness.running.slurm.start import asked_sweep

    return asked_sweep(selection, versions, repeats, **cluster, evict=evict, output=output)
