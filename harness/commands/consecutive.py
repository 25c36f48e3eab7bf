"""`harness consecutive`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, selection_options
from harness.errors import ExitCode


@click.command(name="consecutive")
@click.argument("versions", nargs=-1)
@selection_options
@click.option("--group", help="Start of a group's digest, where the store holds several.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option(
    "--output",
    type=Writable(),
    help="Folder of the tables (default: results/DEVICE-COLLECTION-PASSAGES beside matrix.yaml).",
)
def command(versions: tuple[str, ...], group: str | None, markdown: bool, output: Path | None, **options: Any) -> int:
    """Reduce stored cells to Parquet tables for consecutive VERSIONS (default: all), and print the headline table.

    Reads the store only and never runs a job. Without --collection and --checkpoint the store must hold one group of
    cells, or --group names one. Exit code 1 when a pair differs beyond the noise floor.
    """
    from harness.home import resolve_home
    from harness.matrix import find_matrix, load_matrix
    from harness.reduce import print_headline, reduce_cells, result_console
    from harness.store import Store
    from harness.tables import choose_group

    path = (options["matrix_path"] or find_matrix()).resolve()
    matrix = load_matrix(path)
    store = Store(resolve_home(options["home"], path).store)
    chosen = [matrix.require(version) for version in versions]
    cells = store.cells()
    if group is None and any(options[name] for name in ("collection", "checkpoint", "limit", "scale_to")):
        from harness.experiment import Experiment, Selection

        experiment = Experiment(Selection(**options))
        group = experiment.spec((chosen or matrix.versions)[0]).group
    found = choose_group(cells, group)
    versions_here = {cell.version for cell in found}
    listed = chosen or [v for v in matrix.versions if v in versions_here] or matrix.versions
    if not chosen:
        # A version in the middle that has no cell is a gap in the table, not a step that is silently left out.
        first, last = (matrix.versions.index(listed[i]) for i in (0, -1))
        listed = matrix.versions[first : last + 1]
    spec = found[0].spec
    folder = output or path.parent / "results" / results_name(spec)
    reduced = reduce_cells(matrix, path.parent / "locks", store, found, listed, folder)
    print_headline(reduced, result_console(), markdown=markdown)
    click.echo(f"Tables: {folder}")
    return int(ExitCode.DIVERGENCE if reduced.diverged else ExitCode.OK)


def results_name(spec: dict[str, Any]) -> str:
    """Name of the tables' folder: device, collection and number of passages."""
    from harness.device import Device

    kind = spec["device"].split(" ", 1)[0]
    collection = "".join(c if c.isalnum() else "-" for c in Path(spec["collection"]["name"]).stem).strip("-")
    return f"{Device(kind, spec['device']).slug}--{collection}-{spec['collection']['passages']}"
