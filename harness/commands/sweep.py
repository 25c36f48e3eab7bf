"""`harness sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import (
    Writable,
    capture_option,
    cluster_options,
    local_options,
    repeats_option,
    selection_options,
    sites_options,
)
from harness.errors import ExitCode, InfrastructureError

_MOST_HOURS = 1_000_000

if TYPE_CHECKING:
    from harness.environments.device import Device
    from harness.running.executor import Executor
    from harness.running.experiment import Selection
    from harness.running.slurm.record import Sweep


def _hours(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    # A range lets what is not a number through.
    if value is not None and not value < _MOST_HOURS:
        raise click.BadParameter(f"{value:g} is not a number of hours below {_MOST_HOURS:,}.")
    return value


@click.command(name="sweep")
@click.argument("versions", nargs=-1)
@selection_options
@sites_options
@repeats_option
@local_options
@capture_option
@click.option("--evict", is_flag=True, help="Delete each environment as soon as its cells are stored.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    callback=_hours,
    metavar="HOURS",
    help="Run cells again that ended longer ago than this, as a nightly sweep does (docs/nightly.md).",
)
@click.option("--output", type=Writable(), help="Folder of the tables.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
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
    """Index with VERSIONS (default: all), then reduce to tables. Cells that are stored already are not run again.

    One version that fails does not stop the others. Ctrl-C once lets the running cells end and reduces what is there;
    twice ends them at once. Exit code 3 when a cell ended badly or did not run, 1 when a pair differs beyond the noise
    floor.
    """
    from harness.files import writable_folder
    from harness.report.console import print_headline
    from harness.report.reduce import reduce_cells, results_name
    from harness.running.checks import parse_repeats, to_run, versions_of
    from harness.running.choice import planned_cells
    from harness.running.experiment import Selection
    from harness.running.plan import plan_cells, stopped_early
    from harness.running.progress import Board

    selection, extra_runs = Selection(**options), None
    sweep = None
    on_cluster = cluster["attach"] is not None or cluster["executor_name"] == "slurm"
    _fits(on_cluster, gpus, cluster)
    if on_cluster:
        sweep = _cluster_sweep(selection, versions, repeats, cluster, evict=evict, output=output)
        selection, versions, extra_runs = sweep.selection, tuple(sweep.versions), sweep.repeats
        evict, output = sweep.evict, sweep.output
    experiment = to_run(selection)
    executor = _executor(sweep, experiment.device, gpus, jobs)
    chosen = versions_of(experiment.matrix, versions)
    if extra_runs is None:
        extra_runs = parse_repeats(experiment.matrix, repeats, chosen)
    plan = plan_cells(experiment, chosen, extra_runs)
    if older_than is not None:
        from harness.running.plan import run_older

        plan = run_older(plan, older_than)
    folder = output or experiment.matrix_path.parent / "results" / results_name(plan[0].spec)
    writable_folder(folder, "--output")
    with Board([planned.spec.label for planned in plan]) as board:
        cells = executor.run(experiment, plan, board, evict_after=evict)
    early = stopped_early(plan, cells)
    if not cells:
        raise InfrastructureError(early)
    reduced = reduce_cells(experiment.matrix, planned_cells(experiment, cells), chosen, folder, lambda: experiment)
    print_headline(reduced, markdown=markdown)
    click.echo(f"Tables: {folder}")
    if sweep is not None:
        from harness.running.slurm.sweeps import close_sweep

        close_sweep(experiment.home, sweep)
    if early:
        click.echo(early, err=True)
    if early or any(cell.outcome not in {"ok", "unsupported"} for cell in cells):
        return int(ExitCode.INFRASTRUCTURE)
    return int(ExitCode.DIVERGENCE if reduced.diverged else ExitCode.OK)


def _fits(on_cluster: bool, gpus: str | None, cluster: dict[str, Any]) -> None:
    """Refuse options that would silently do nothing where the cells are to run."""
    from harness.errors import UsageError

    if on_cluster and gpus is not None:
        raise UsageError("--gpus chooses among this machine's GPUs: over Slurm, use --slurm gres=… instead.")
    if not on_cluster and (cluster["partition"] or cluster["extra"]):
        raise UsageError("--partition and --slurm are for Slurm: give --executor slurm, too, or leave them out.")


def _executor(sweep: Sweep | None, device: Device, gpus: str | None, jobs: int) -> Executor:
    """Where the cells run. What only a cluster needs is imported only for one."""
    if sweep is None:
        from harness.environments.gpus import choose_gpus
        from harness.running.executor import LocalExecutor

        return LocalExecutor(tuple(choose_gpus(device, gpus)), jobs)
    from harness.running.slurm.executor import SlurmExecutor

    return SlurmExecutor(sweep)


def _cluster_sweep(
    selection: Selection,
    versions: tuple[str, ...],
    repeats: tuple[str, ...],
    cluster: dict[str, Any],
    *,
    evict: bool,
    output: Path | None,
) -> Sweep:
    """The sweep of `--attach`, or a new one."""
    from harness.errors import UsageError
    from harness.inputs.matrix_file import find_matrix, load_matrix
    from harness.running.checks import parse_repeats, versions_of
    from harness.running.progress import Board
    from harness.running.slurm.record import Options
    from harness.running.slurm.start import attach_sweep, start_sweep

    if cluster["attach"] is not None:
        if versions or repeats:
            raise UsageError("--attach goes on with what the sweep was started with: give no versions and no repeats.")
        return attach_sweep(selection, cluster["attach"])
    extra = {}
    for option in cluster["extra"]:
        name, is_there, value = option.partition("=")
        if not (name and is_there):
            raise UsageError(f"--slurm {option!r}: write NAME=VALUE, such as account=me.")
        extra[name] = value
    how = Options(cluster["partition"], extra, cluster["retries"], cluster["at_once"])
    matrix = load_matrix(selection.matrix_path or find_matrix())
    chosen = versions_of(matrix, versions)
    extra_runs = parse_repeats(matrix, repeats, chosen)
    with Board([]) as board:
        return start_sweep(selection, chosen, extra_runs, how, board, evict=evict, output=output)
