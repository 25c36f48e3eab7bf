"""`harness blame`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, selection_options, sites_options
from harness.errors import ExitCode, printable


@click.command(name="blame")
@click.argument("a")
@click.argument("b")
@selection_options
@sites_options
@click.option(
    "--output",
    type=Writable(),
    help="Write to blame.parquet here, beside the rows of other pairs.",
)
def command(a: str, b: str, output: Path | None, **options: Any) -> int:
    """Say which package changed the index between versions A and B, by exchanging packages in both directions.

    Each exchange is an environment of its own, built from the locks and deleted afterwards. Exit code 1 when the two
    versions differ beyond the noise floor, whether or not a package could be blamed.
    """
    from harness.environments.lockfile import difference
    from harness.explain.blame import blame, suspects
    from harness.explain.locate import look
    from harness.explain.pair import prepare_pair
    from harness.report.blame_rows import rows
    from harness.report.gathering import Gathering
    from harness.running.checks import to_run, two_versions
    from harness.running.experiment import Selection

    experiment = to_run(Selection(**options))
    a, b = two_versions(experiment.matrix, a, b, "blame")
    gathering = Gathering(output, "blame", experiment, a) if output else None
    differing = suspects(experiment, a, b)
    for unit in differing.units:
        click.echo(f"{unit.name}: {unit.versions or '; '.join(unit.contents)}")
        for part in unit.parts:
            click.echo(f"  {part.name}: {part.versions or '; '.join(part.contents)}")
    # Before anything long runs.
    if differing.warning:
        click.echo(differing.warning)
    pair = prepare_pair(experiment, a, b)
    found = blame(experiment, pair, lambda text: click.echo(text, err=True))
    for tried in found.tried:
        base, other = (a, b) if tried.base == "A" else (b, a)
        reason = f" ({tried.outcome}: {tried.reason})" if tried.reason else ""
        click.echo(printable(f"{base} with {', '.join(tried.units)} of {other}{tried.remark}: {tried.result}{reason}"))
    if differing.left_out:
        click.echo(f"Not exchanged, because neither site folder holds them: {', '.join(differing.left_out)}.")
    click.echo(found.sentence)
    if gathering:
        versions = difference(experiment.lock(a), experiment.lock(b))
        click.echo(f"Table: {gathering.write(rows(found, pair, versions))}")
    return int(ExitCode.DIVERGENCE if look(pair).diverged else ExitCode.OK)
