"""What `harness index`, `search` and `train` share: run cells of one kind, store them, and say how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from harness.errors import ExitCode, printable
from harness.words import count

if TYPE_CHECKING:
    from harness.running.experiment import Experiment
    from harness.running.plan import Planned
    from harness.running.selection import Selection
    from harness.store.cell import Cell


def selected(job: str, options: Mapping[str, Any]) -> tuple[Selection, dict[str, Any]]:
    """What the options of a command select (`job_options`, and those of its kind), and how `run_cells` is to run it."""
    from harness.running.selection import Selection

    running = {name: options[name] for name in ("repeats", "evict", "again", "gpus", "jobs")}
    return Selection(job=job, **{name: value for name, value in options.items() if name not in running}), running


def run_cells(
    selection: Selection,
    versions: Sequence[str],
    repeats: Sequence[str],
    *,
    evict: bool,
    again: bool,
    gpus: str | None,
    jobs: int,
    deployments: bool = False,
    quiet: bool = False,
) -> tuple[Experiment, list[Cell], ExitCode]:
    """Run the cells of versions, after those that they need; returns the experiment, the cells and an exit code.

    Args:
        selection: with the kind of job.
        versions: or `all`.
        repeats: as the command line has them.
        evict: whether an environment is deleted when its cells are stored.
        again: whether stored cells run, too.
        gpus: as the command line has them.
        jobs: at a time, on each device.
        deployments: whether each version also searches its neighbours' indexes.
        quiet: whether standard output is for something else.
    """
    from harness.environments.device import choose_gpus
    from harness.running.checks import parse_repeats, to_run, versions_of
    from harness.running.deployments import neighbours
    from harness.running.plan import plan_cells, run_needed, stopped_early
    from harness.running.progress import Board
    from harness.running.sweep import LocalExecutor

    experiment = to_run(selection)
    executor = LocalExecutor(tuple(choose_gpus(experiment.device, gpus)), jobs)
    chosen = versions_of(experiment, versions)
    extra = parse_repeats(experiment, repeats, chosen)

    def run(of: Experiment, plan: list[Planned]) -> list[Cell]:
        with Board([planned.spec.label for planned in plan]) as board:
            return executor.run(of, plan, board, evict_after=evict)

    searches = [(experiment, chosen)]
    for index, near in neighbours(chosen) if deployments else ():
        searches.append((experiment.search(on=index), [one for one in near if one != index]))
    plan, cells, bad = [], [], []
    for of, those in searches:
        ready, missing = run_needed(of, those, run)
        planned = plan_cells(of, ready, {version: extra[version] for version in ready if version in extra})
        plan += [replace(one, run=True) for one in planned] if again else planned
        cells += run(of, plan[-len(planned) :]) if planned else []
        bad += missing
    bad += [cell for cell in cells if cell.outcome not in {"ok", "unsupported"}]
    ok = sum(cell.outcome == "ok" for cell in cells)
    stored = f"{'is' if len(cells) == 1 else 'are'} stored, in {experiment.home.store}"
    click.echo(f"{ok} of {count(len(cells), 'cell')} ended well and {stored}.", err=quiet)
    for cell in bad:
        click.echo(printable(f"{cell.label}: {cell.outcome}: {cell.reason}"), err=True)
    early = stopped_early(plan, cells)
    if early:
        click.echo(early, err=True)
    failed = early or any(cell.outcome != "unsupported" for cell in bad)
    return experiment, cells, ExitCode.INFRASTRUCTURE if failed else ExitCode.OK
