"""`harness sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import parse_repeats, repeats_option, selection_options, sites_options
from harness.errors import ExitCode


@click.command(name="sweep")
@click.argument("versions", nargs=-1)
@selection_options
@sites_options
@repeats_option
@click.option(
    "--capture",
    type=click.Choice(["final", "digests", "full"]),
    help="How much of the inside of the pipeline to keep (default: matrix.yaml).",
)
@click.option("--evict", is_flag=True, help="Delete each environment as soon as its cells are stored.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of the tables.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def command(
    versions: tuple[str, ...],
    repeats: tuple[str, ...],
    evict: bool,
    output: Path | None,
    markdown: bool,
    **options: Any,
) -> int:
    """Index with VERSIONS (default: all), then reduce to tables. Cells that are stored already are not run again.

    One version that fails does not stop the others. Exit code 3 when a cell ended badly, 1 when a pair differs beyond
    the noise floor.
    """
    from harness.commands.consecutive import results_name
    from harness.executor import LocalExecutor
    from harness.experiment import Experiment, Selection
    from harness.progress import Board
    from harness.reduce import print_headline, reduce_cells, result_console

    experiment = Experiment(Selection(**options))
    chosen = [experiment.matrix.require(version) for version in versions] or experiment.matrix.versions
    plan = experiment.plan(chosen, parse_repeats(repeats, experiment.matrix.require))
    labels = [f"{p.spec.version}#{p.spec.repeat}" if p.spec.repeat else p.spec.version for p in plan]
    with Board(labels) as board:
        cells = LocalExecutor().run(experiment, plan, board, evict_after=evict)
    folder = output or experiment.matrix_path.parent / "results" / results_name(cells[0].spec)
    reduced = reduce_cells(experiment.matrix, experiment.locks, experiment.store, cells, chosen, folder)
    print_headline(reduced, result_console(), markdown=markdown)
    click.echo(f"Tables: {folder}")
    if any(cell.outcome not in {"ok", "unsupported"} for cell in cells):
        return int(ExitCode.INFRASTRUCTURE)
    return int(ExitCode.DIVERGENCE if reduced.diverged else ExitCode.OK)
