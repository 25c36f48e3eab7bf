"""`harness probe`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import again_option, probe_options, repeats_option, sites_options
from harness.errors import ExitCode, printable


@click.command(name="probe")
@click.argument("versions", nargs=-1, required=True)
@probe_options
@sites_options
@repeats_option
@again_option("probes")
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
    from harness.running.probes import check_probes, run_probes
    from harness.running.progress import Board
    from harness.running.selection import Selection

    wanted = check_probes(names)
    experiment = to_run(Selection(**options))
    chosen = versions_of(experiment, versions)
    more = parse_repeats(experiment, repeats, chosen)
    with Board([]) as board:
        cells = run_probes(experiment, chosen, wanted, board, repeats=more, again=again)
    for line in version_lines(cells):
        click.echo(line)
    for line in fact_lines(compare_probes(experiment.store, by_probe(cells), chosen)):
        click.echo(line)
    bad = [cell for cell in cells if cell.failed]
    for cell in bad:
        click.echo(printable(f"{cell.label}: {cell.spec.probe}: {cell.outcome}: {cell.reason}"), err=True)
    return int(ExitCode.INFRASTRUCTURE if bad else ExitCode.OK)
