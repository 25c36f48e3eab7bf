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
    """List the cells of a sweep over VERSIONS (default: all), and why each would run or be skipped."""
    import json

    from harness.running.checks import parse_repeats, versions_of
    from harness.running.experiment import Experiment
    from harness.running.plan import plan_cells
    from harness.running.selection import Selection
    from harness.words import count

    experiment = Experiment(Selection(**options))
    chosen = versions_of(experiment, versions)
    plan = plan_cells(experiment, chosen, parse_repeats(experiment, repeats, chosen))
    if as_json:
        cells = [
            {"version": p.spec.version, "repeat": p.spec.repeat, "key": p.spec.key, "run": p.run, "why": p.why}
            for p in plan
        ]
        click.echo(json.dumps({"device": experiment.device.identity, "cells": cells}, indent=1))
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
