"""`harness probes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable
from harness.commands.probe import probe_options
from harness.errors import ExitCode


@click.command(name="probes")
@click.argument("versions", nargs=-1)
@probe_options
@click.option("--key", help="Start of the digest of one of several sets of stored probes.")
@click.option("--facts/--no-facts", default=True, show_default=True, help="Also say what does not hold in a version.")
@click.option("--output", type=Writable(), help="Write probes.parquet here.")
def command(
    versions: tuple[str, ...], names: tuple[str, ...], key: str | None, facts: bool, output: Path | None, **options: Any
) -> int:
    """Compare the stored probes of consecutive VERSIONS (default: all that have any), like artifacts.

    Reads the store only. One short line for each probe that changed; exit code 1 when one did, beyond what a repeat
    of the same version changes. Where the store holds probes of several checkpoints or devices, --checkpoint, --device
    and --threads, or --key, name one set.
    """
    from harness.home import resolve_home
    from harness.matrix import find_matrix, load_matrix
    from harness.probe_rows import choose_probes, compare_probes, fact_lines, summaries
    from harness.probes import check_probes
    from harness.reduce import profiles_of
    from harness.store import Store

    wanted = check_probes(names)
    path = (options["matrix_path"] or find_matrix()).resolve()
    matrix = load_matrix(path)
    store = Store(resolve_home(options["home"], path).store)
    chosen = [matrix.require(version) for version in versions]
    cells = choose_probes(
        store.cells(), wanted, checkpoint=options["checkpoint"], device=options["device"], threads=options["threads"],
        key=key,
    )  # fmt: skip
    there = {cell.version for members in cells.values() for cell in members}
    listed = chosen or [version for version in matrix.versions if version in there]
    rows = compare_probes(store, cells, listed, profiles_of(matrix))
    for line in summaries(rows):
        click.echo(line)
    for line in fact_lines(rows) if facts else ():
        click.echo(line)
    if output:
        from harness.findings import write_table

        spec = next(iter(cells.values()))[0].spec
        about = {"device": spec["device"], "checkpoint": spec["checkpoint"]["name"]}
        click.echo(f"Table: {write_table(output, 'probes', (row.to_row() for row in rows), **about)}")
    return int(ExitCode.DIVERGENCE if any(row.changed for row in rows) else ExitCode.OK)
