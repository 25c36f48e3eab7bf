"""`harness consecutive`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, axis_option, group_option, markdown_option, table_options
from harness.errors import ExitCode
from harness.report.reduce import results_name


@click.command(name="consecutive")
@click.argument("versions", nargs=-1)
@table_options
@axis_option
@group_option
@markdown_option
@click.option(
    "--output",
    type=Writable(),
    help="Folder of the tables (default: tables/DEVICE--COLLECTION-PASSAGES in --home).",
)
def command(versions: tuple[str, ...], group: str | None, markdown: bool, output: Path | None, **options: Any) -> int:
    """Reduce stored cells to Parquet tables for consecutive VERSIONS (default: all), and print the headline table.

    Reads the store only and never runs a job. It takes the cells that `harness plan` names for the same options; where
    these name no collection, checkpoint or device, the only set that is stored, or the one that `plan` would mean.
    Exit code 1 when a pair differs beyond the noise floor, 2 when no two versions could be compared.
    """
    from harness.report.console import print_headline
    from harness.report.reduce import reduce_cells
    from harness.running.checks import versions_of
    from harness.running.choice import Chooser
    from harness.running.experiment import Experiment
    from harness.running.selection import Selection

    selection = Selection(**options)
    chooser = Chooser(selection, group)
    matrix = chooser.matrix
    named = bool(versions) and versions != ("all",)
    asked = versions_of(chooser, versions)
    of_axis = chooser.selection.axis is not None
    choice = chooser.choose(labels=asked if named or of_axis else ())
    listed = asked if named else [version for version in asked if version in choice.versions]
    if not listed:
        listed = asked if of_axis else choice.versions
    elif not named:
        # A version in the middle that has no cell is a gap in the table, not a step that is silently left out.
        first, last = (asked.index(listed[i]) for i in (0, -1))
        listed = asked[first : last + 1]
    name = results_name(choice.cells[0].spec, chooser.selection.searched, matrix.common_axis(listed))
    folder = output or chooser.home.tables / name
    reduced = reduce_cells(matrix, choice, listed, folder, lambda: Experiment(selection))
    print_headline(reduced, markdown=markdown)
    click.echo(f"Tables: {folder}")
    if reduced.diverged:
        return int(ExitCode.DIVERGENCE)
    return int(ExitCode.OK if reduced.compared else ExitCode.USAGE)
