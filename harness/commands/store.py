"""`harness store`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import home_option, matrix_option

if TYPE_CHECKING:
    from harness.store import Store


def _tensors(default: str) -> click.Option:
    return click.Option(
        ["--tensors"],
        type=click.Choice(["none", "final", "all"]),
        default=default,
        show_default=True,
        help="Which tensors travel with the records.",
    )


@click.group(name="store")
def command() -> None:
    """List, export and import stored cells."""


@command.command(name="list")
@matrix_option
@home_option
def list_cells(matrix_path: Path | None, home: Path | None) -> None:
    """List the cells, group by group."""
    from harness.tables import describe_group, groups_of

    for group, cells in groups_of(_store(matrix_path, home).cells()).items():
        click.echo(f"{group[:12]}  {describe_group(cells)}")
        for cell in cells:
            click.echo(f"  {cell.key[:12]}  {cell.label:10} {cell.outcome:14} {cell.capture:8} {cell.finished}")


@command.command(name="export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--group", default="", help="Only cells whose group's digest starts so.")
@matrix_option
@home_option
def export(folder: Path, group: str, tensors: str, matrix_path: Path | None, home: Path | None) -> None:
    """Copy cells into FOLDER, a store of its own."""
    from harness.store import Store
    from harness.transfer import copy_cells

    store = _store(matrix_path, home)
    cells = [cell for cell in store.cells() if cell.group.startswith(group)]
    copied, objects = copy_cells(store, Store(folder), cells, tensors)
    click.echo(f"{copied} cells and {objects} tensors copied to {folder}.")


@command.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@matrix_option
@home_option
def import_(folder: Path, tensors: str, matrix_path: Path | None, home: Path | None) -> None:
    """Copy the cells in FOLDER into the store; those that are there already stay."""
    from harness.store import Store
    from harness.transfer import copy_cells

    source = Store(folder)
    copied, objects = copy_cells(source, _store(matrix_path, home), source.cells(), tensors)
    click.echo(f"{copied} cells and {objects} tensors imported from {folder}.")


export.params.append(_tensors("final"))
import_.params.append(_tensors("all"))


def _store(matrix_path: Path | None, home: Path | None) -> Store:
    from harness.home import resolve_home
    from harness.matrix import find_matrix
    from harness.store import Store

    path = (matrix_path or find_matrix()).resolve()
    return Store(resolve_home(home, path).store)
