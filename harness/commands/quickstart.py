"""`harness quickstart`."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from harness.commands.options import place_options
from harness.errors import ExitCode
from harness.home import Home


@click.command(name="quickstart")
@place_options
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N of the embedded passages.")
def command(matrix_path: Path, home: Home, limit: int | None) -> int:
    """Index the embedded passages with two versions on the CPU, compare, and say what changed.

    Exit code 1 when something did, which is expected.
    """
    from harness.environments.device import usable_cores
    from harness.errors import InfrastructureError
    from harness.inputs.matrix_file import load_matrix
    from harness.report.console import print_headline
    from harness.report.page.page import write_page
    from harness.report.quickstart_text import closing
    from harness.report.reduce import reduce_cells
    from harness.report.screen import Screen, wrap
    from harness.running.checks import to_run
    from harness.running.choice import planned_cells
    from harness.running.deployments import neighbours
    from harness.running.experiment import Experiment
    from harness.running.plan import Planned, plan_cells, stopped_early
    from harness.running.progress import Board
    from harness.running.selection import Selection
    from harness.running.sweep import run_plan
    from harness.store.cell import Cell
    from harness.words import typed

    matrix = load_matrix(matrix_path)
    settings = matrix.quickstart
    experiment = to_run(
        Selection(
            matrix_path=matrix_path,
            home=home.root,
            collection=settings.collection,
            checkpoint=settings.checkpoint,
            limit=limit,
            # No search can return more passages than there are.
            k=min(limit, matrix.jobs.search.k) if limit else None,
            device="cpu",
            threads=min(matrix.jobs.index.threads, usable_cores()),
        )
    )

    def run(of: Experiment, plan: list[Planned]) -> list[Cell]:
        with Board([planned.spec.label for planned in plan]) as board:
            cells = run_plan(of, plan, board, evict_after=False)
        if early := stopped_early(plan, cells):
            raise InfrastructureError(early)
        return cells

    click.echo(
        f"Indexing {len(experiment.passages):,} embedded passages with torch {' and '.join(settings.versions)} on the "
        "CPU; the first run downloads several GB.",
        err=True,
    )
    # The first version once more: what a run of the same thing changes by itself is the floor of what is found.
    cells = run(experiment, plan_cells(experiment, settings.versions, {settings.versions[0]: 1}))
    if not any(cell.failed for cell in cells):
        click.echo("Searching each index with each version.", err=True)
        for index, searchers in neighbours(settings.versions):
            searches = experiment.search(on=index)
            run(searches, plan_cells(searches, list(searchers), {}))
    output = experiment.home.tables / "quickstart"
    reduced = reduce_cells(matrix, planned_cells(experiment, cells), settings.versions, output, lambda: experiment)
    print_headline(reduced, markdown=False)
    chosen = experiment.selection
    options = f"--collection {chosen.collection} --checkpoint {chosen.checkpoint} --device cpu"
    options += f" --threads {chosen.threads}" if chosen.threads != matrix.jobs.index.threads else ""
    options += f" --limit {limit}" if limit else ""
    given = click.get_current_context().get_parameter_source
    for name, option, place in (("matrix_path", "--matrix", matrix_path), ("home", "--home", home.root)):
        if given(name) is ParameterSource.COMMANDLINE:
            options += f" {option} {place}"
    made = [f"Report: {write_page((output,), output / 'report.html')}", f"Tables: {output}"]
    click.echo()
    for line in closing(reduced, typed(), options, made):
        # What is to be copied stays on one line.
        click.echo("\n".join([line] if line in made or "Next" in line else wrap(line, Screen.of().width)))
    if any(cell.failed for cell in cells):
        return int(ExitCode.INFRASTRUCTURE)
    return int(ExitCode.DIVERGENCE if reduced.diverged else ExitCode.OK)
