"""`harness plan`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import axis_option, cell_options, repeats_option
from harness.errors import printable


@click.command(name="plan")
@click.argument("versions", nargs=-1)
@cell_options
@axis_option
@repeats_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(versions: tuple[str, ...], repeats: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """List the cells of a sweep over VERSIONS (default: all), and why each would run or be skipped.

    Below, how long that takes and what it needs on the disk, estimated from cells that are stored.
    """
    import json
    from dataclasses import asdict

    from harness.running.checks import parse_repeats, versions_of
    from harness.running.estimate import estimate
    from harness.running.experiment import Experiment
    from harness.running.plan import plan_cells
    from harness.running.selection import Selection
    from harness.words import count, duration, size

    experiment = Experiment(Selection(**options))
    chosen = versions_of(experiment, versions)
    plan = plan_cells(experiment, chosen, parse_repeats(experiment, repeats, chosen))
    guess = estimate(experiment.store, experiment.store.listed(), plan, experiment.job.capture)

    if as_json:
        cells = [
            {"version": p.spec.version, "repeat": p.spec.repeat, "key": p.spec.key, "run": p.run, "why": p.why}
            for p in plan
        ]
        found = None if guess is None else asdict(guess)
        click.echo(json.dumps({"device": experiment.device.identity, "cells": cells, "estimate": found}, indent=1))
        return
    click.echo(
        printable(
            f"{experiment.passages.name}: {count(len(experiment.passages), 'passage')}; "
            f"checkpoint {experiment.checkpoint.name}; {experiment.device.identity}"
        )
    )
    for p in plan:
        click.echo(printable(f"{p.spec.label:10} {p.spec.key[:12]}  {'run ' if p.run else 'skip'}  {p.why}"))
    click.echo(f"{sum(p.run for p in plan)} of {count(len(plan), 'cell')} would run.")
    if guess is not None:
        few, many = guess.passages
        of = count(few, "passage") if few == many else f"{few:,} to {many:,} passages"
        click.echo(
            f"About {duration(guess.seconds)} for their jobs, one after the other, and at most {size(guess.bytes)} of "
            f"tensors, by {count(guess.by, 'stored cell')} of {of} on this device."
        )
    elif any(p.run for p in plan):
        click.echo("How long that takes is not known: no cell of the kind is stored for this device.")
    needed = [version for version in chosen if any(p.run and p.spec.version == version for p in plan)]
    # One of the user's own is used as it is, or built from what is not looked at here.
    ours = [version for version in needed if experiment.matrix.has(version)]
    if missing := [one for one in ours if experiment.environment(one).there(experiment.device.flavour) is None]:
        click.echo(f"{count(len(missing), 'environment')} would be built first: {', '.join(missing)}.")
