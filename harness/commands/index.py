"""`harness index`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import (
    again_option,
    capture_option,
    evict_option,
    local_options,
    repeats_option,
    selection_options,
    sites_options,
)
from harness.errors import ExitCode, printable


@click.command(name="index")
@click.argument("versions", nargs=-1, required=True)
@selection_options
@sites_options
@repeats_option
@local_options
@capture_option
@evict_option
@again_option("cells")
def command(
    versions: tuple[str, ...],
    repeats: tuple[str, ...],
    evict: bool,
    again: bool,
    gpus: str | None,
    jobs: int,
    **options: Any,
) -> int:
    """Build environments of VERSIONS (or `all`) if needed, run the index job in each, and store the cells.

    Exit code 3 when a cell ended badly; a version whose wheel does not support the device is not an error.
    """
    from dataclasses import replace

    from harness.environments.device import choose_gpus
    from harness.running.checks import parse_repeats, to_run, versions_of
    from harness.running.experiment import Selection
    from harness.running.plan import plan_cells, stopped_early
    from harness.running.progress import Board
    from harness.running.sweep import LocalExecutor
    from harness.words import count

    experiment = to_run(Selection(**options))
    executor = LocalExecutor(tuple(choose_gpus(experiment.device, gpus)), jobs)
    chosen = versions_of(experiment.matrix, versions)
    plan = plan_cells(experiment, chosen, parse_repeats(experiment.matrix, repeats, chosen))
    if again:
        plan = [replace(planned, run=True) for planned in plan]
    with Board([planned.spec.label for planned in plan]) as board:
        cells = executor.run(experiment, plan, board, evict_after=evict)
    bad = [cell for cell in cells if cell.outcome not in {"ok", "unsupported"}]
    ok = sum(cell.outcome == "ok" for cell in cells)
    stored = f"{'is' if len(cells) == 1 else 'are'} stored, in {experiment.home.store}"
    click.echo(f"{ok} of {count(len(cells), 'cell')} ended well and {stored}.")
    for cell in bad:
        click.echo(printable(f"{cell.label}: {cell.outcome}: {cell.reason}"), err=True)
    early = stopped_early(plan, cells)
    if early:
        click.echo(early, err=True)
    return int(ExitCode.INFRASTRUCTURE if bad or early else ExitCode.OK)
