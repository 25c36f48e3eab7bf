"""`harness locate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, cell_options, gathering_option, sites_options
from harness.errors import ExitCode, UsageError


@click.command(name="locate")
@click.argument("a")
@click.argument("b")
@cell_options
@sites_options
@click.option("--repeats", type=click.IntRange(min=0), default=1, help="Extra runs of each, for noise.")
@click.option("--no-replay", is_flag=True, help="Only the first stage: which artifact differs first.")
@click.option(
    "--inherited/--no-inherited",
    default=True,
    help="Also replay steps that inherit a difference: one may add its own. Takes long over a large collection.",
)
@click.option("--repro", type=Writable(), help="Write repro scripts to this folder.")
@gathering_option("locations")
def command(
    a: str,
    b: str,
    repeats: int,
    no_replay: bool,
    inherited: bool,
    repro: Path | None,
    output: Path | None,
    **options: Any,
) -> int:
    """Say where the difference of version B from version A starts: step, module, function, operator.

    With --job train: in which step of the training, in which phase of it, in arithmetic or in the random numbers.
    What is not stored yet is run first. Exit code 1 when they differ beyond the noise floor.
    """
    from harness.explain.locate import locate, look
    from harness.explain.pair import prepare_pair
    from harness.report.console import result_console
    from harness.report.location_text import rows, show
    from harness.report.parquet import Gathering
    from harness.running.checks import to_run, two_versions
    from harness.running.selection import Selection

    if no_replay and repro is not None:
        raise UsageError("--repro needs the replay that --no-replay leaves out: give one of the two.")
    # A step is replayed with A's artifacts, whatever matrix.yaml keeps of other cells.
    selection = Selection(**options, capture=None if no_replay else "full")
    experiment = to_run(selection.over_one_index(a))
    a, b = two_versions(experiment, a, b, "locate", experiment.selection.job)
    gathering = Gathering(output, "locations", experiment, a) if output else None
    pair = prepare_pair(experiment, a, b, repeats=repeats)
    written: list[str] = []
    if no_replay:
        location = look(pair)
    else:
        from harness.explain.repro import write_repros

        with pair.bench.scratch(f"locate-{a}-{b}") as folder:
            location = locate(
                pair,
                folder,
                inherited=inherited,
                report=lambda text: click.echo(text, err=True),
                on_recording=lambda finding, recorded, in_b: written.extend(
                    write_repros(pair, finding, recorded, in_b, repro) if repro else []
                ),
            )
    show(location, result_console())
    if gathering:
        click.echo(f"Table: {gathering.write(rows(location))}")
    for line in written:
        click.echo(line)
    return int(ExitCode.DIVERGENCE if location.diverged else ExitCode.OK)
