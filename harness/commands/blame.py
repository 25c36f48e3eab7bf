"""`harness blame`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import cell_options, gathering_option, sites_options
from harness.errors import ExitCode


@click.command(name="blame")
@click.argument("a")
@click.argument("b")
@cell_options
@sites_options
@gathering_option("blame")
def command(a: str, b: str, output: Path | None, **options: Any) -> int:
    """Say which package changed what versions A and B make, by exchanging packages in both directions.

    Each exchange is an environment of its own, built from the locks and deleted afterwards. Exit code 1 when the two
    versions differ beyond the noise floor, whether or not a package could be blamed.
    """
    from harness.environments.lockfile import difference
    from harness.explain.blame import blame, suspects
    from harness.explain.locate import look
    from harness.explain.pair import prepare_pair
    from harness.report.blame_text import lines, rows, suspect_lines
    from harness.report.parquet import Gathering
    from harness.running.checks import to_run, two_versions
    from harness.running.selection import Selection

    experiment = to_run(Selection(**options).over_one_index(a))
    a, b = two_versions(experiment, a, b, "blame", experiment.selection.job)
    gathering = Gathering(output, "blame", experiment, a) if output else None
    differing = suspects(experiment, a, b)
    # Before anything long runs.
    for line in suspect_lines(differing):
        click.echo(line)
    pair = prepare_pair(experiment, a, b)
    found = blame(experiment, pair, lambda text: click.echo(text, err=True))
    for line in lines(found, a, b, differing.left_out):
        click.echo(line)
    if gathering:
        versions = difference(experiment.lock(a), experiment.lock(b))
        click.echo(f"Table: {gathering.write(rows(found, pair, versions))}")
    return int(ExitCode.DIVERGENCE if look(pair).diverged else ExitCode.OK)
