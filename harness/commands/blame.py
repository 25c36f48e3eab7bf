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
@click.option(
    "--inherited/--no-inherited",
    default=True,
    help="Also ask steps that inherit a difference for one of their own, given A's inputs.",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Make the whole job in each exchange, and look at all that differs, instead of the least that shows it.",
)
@click.option("--package", "packages", multiple=True, help="Ask whether it is this one (default: any that differs).")
@gathering_option("blame")
def command(
    a: str, b: str, output: Path | None, inherited: bool, whole: bool, packages: tuple[str, ...], **options: Any
) -> int:
    """Say which package changed what versions A and B make, by exchanging packages in both directions.

    A and B are versions, names, or NAME=WHAT of any kind (docs/environments.md). Each exchange is an environment of its
    own, built from pins or put together from the files of both, and deleted afterwards. Exit code 1 when the two
    versions differ beyond the noise floor, whether or not a package could be blamed.
    """
    from harness.environments.changes import changes
    from harness.environments.lockfile import difference
    from harness.explain.blame import blame, only, suspects
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
    only(differing.units, packages, a, b)
    for line in suspect_lines(differing):
        click.echo(line)
    pair = prepare_pair(experiment, a, b)
    found = blame(
        experiment, pair, lambda text: click.echo(text, err=True), inherited=inherited, whole=whole, packages=packages
    )
    for line in lines(found, a, b, differing.left_out):
        click.echo(line)
    if gathering:
        locks = experiment.lock(a), experiment.lock(b)
        # Of packages of one version, their files.
        versions = {one.name: (one.version_a, one.version_b) for one in changes(*locks)} | difference(*locks)
        click.echo(f"Table: {gathering.write(rows(found, pair, versions))}")
    return int(ExitCode.DIVERGENCE if look(pair).diverged else ExitCode.OK)
