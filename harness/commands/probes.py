"""`harness probes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, probe_options
from harness.errors import ExitCode


@click.command(name="probes")
@click.argument("versions", nargs=-1)
@probe_options
@click.option("--key", help="Start of the digest of one of several sets of stored probes.")
@click.option("--facts/--no-facts", default=True, help="Also say what does not hold in a version.")
@click.option("--output", type=Writable(), help="Write probes.parquet here.")
def command(
    versions: tuple[str, ...], names: tuple[str, ...], key: str | None, facts: bool, output: Path | None, **options: Any
) -> int:
    """Compare the stored probes of consecutive VERSIONS (default: all that have any), like artifacts.

    Reads the store only. One short line for each probe that changed; exit code 1 when one did, beyond what a repeat
    of the same version changes. Where the store holds probes of several checkpoints or devices, --checkpoint, --device
    and --threads, or --key, name one set.
    """
    from harness.explain.probe_rows import by_probe, compare_probes
    from harness.inputs.matrix import profiles_of
    from harness.report.probe_text import fact_lines, summaries
    from harness.report.screen import Screen, wrap
    from harness.running.choice import Chooser
    from harness.running.probes import JOB, check_probes
    from harness.running.selection import Selection

    wanted = check_probes(names)
    chooser = Chooser(Selection(**options), key)
    matrix, store = chooser.matrix, chooser.store
    asked = [chooser.require(version) for version in versions]
    choice = chooser.choose(JOB, labels=asked, probes=wanted)
    cells = by_probe(choice.cells)
    listed = asked or choice.versions
    rows = compare_probes(store, cells, listed, profiles_of(matrix))
    if choice.note:
        click.echo(choice.note, err=True)
    width = Screen.of().width
    for line in [*summaries(rows), *(fact_lines(rows) if facts else ())]:
        click.echo("\n".join(wrap(line, width, margin=4)))
    if output:
        from harness.report.parquet import write_table

        spec = next(iter(cells.values()))[0].spec
        about = {"device": spec.device, "checkpoint": spec.checkpoint.name, "job": spec.job}
        click.echo(f"Table: {write_table(output, 'probes', (row.to_row() for row in rows), **about)}")
    return int(ExitCode.DIVERGENCE if any(row.changed for row in rows) else ExitCode.OK)
