"""`harness probe`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from harness.commands.options import home_option, matrix_option, repeats_option, sites_options
from harness.errors import ExitCode, printable

Function = TypeVar("Function", bound=Callable[..., Any])


def probe_options(function: Function) -> Function:
    """Options that say which probe cells are meant; a probe needs no collection."""
    for option in reversed(
        (
            click.option(
                "--probe",
                "names",
                multiple=True,
                metavar="NAME",
                help="Only this probe. May be given again. (default: all, docs/probes.md)",
            ),
            click.option("--checkpoint", help="A checkpoint in matrix.yaml, or a folder."),
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda"]),
                default="auto",
                show_default=True,
                help="auto: the GPU if there is one.",
            ),
            click.option("--threads", type=click.IntRange(min=1), help="CPU threads (part of a cell's key)."),
            matrix_option,
            home_option,
        )
    ):
        function = option(function)
    return function


@click.command(name="probe")
@click.argument("versions", nargs=-1, required=True)
@probe_options
@sites_options
@repeats_option
@click.option(
    "--again",
    is_flag=True,
    help="Run probes that are already stored again; one that ends well takes the place of the stored one.",
)
def command(
    versions: tuple[str, ...], names: tuple[str, ...], repeats: tuple[str, ...], again: bool, **options: Any
) -> int:
    """Build environments of VERSIONS (or `all`) if needed, run the probes in each, and store what they make.

    Probes are small experiments: single operators, layers and matrix products on seeded inputs (docs/probes.md).
    `harness probes` compares what is stored. Exit code 3 when a probe ended badly.
    """
    from harness.explain.probe_rows import by_probe, compare_probes
    from harness.report.probe_text import fact_lines, version_lines
    from harness.running.checks import parse_repeats, to_run, versions_of
    from harness.running.experiment import Selection
    from harness.running.probes import check_probes, run_probes
    from harness.running.progress import Board

    wanted = check_probes(names)
    experiment = to_run(Selection(**options))
    chosen = versions_of(experiment.matrix, versions)
    more = parse_repeats(experiment.matrix, repeats, chosen)
    with Board([]) as board:
        cells = run_probes(experiment, chosen, wanted, board, repeats=more, again=again)
    for line in version_lines(cells):
        click.echo(line)
    for line in fact_lines(compare_probes(experiment.store, by_probe(cells), chosen)):
        click.echo(line)
    bad = [cell for cell in cells if cell.outcome not in {"ok", "unsupported"}]
    for cell in bad:
        click.echo(printable(f"{cell.label}: {cell.spec.probe}: {cell.outcome}: {cell.reason}"), err=True)
    return int(ExitCode.INFRASTRUCTURE if bad else ExitCode.OK)
