"""`harness store`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import Function, Writable, place_options
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.home import Home
    from harness.store.cell import Cell
    from harness.store.store import Store


def _home_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--matrix` and `--home`, of which only the home is of use."""

    @functools.wraps(function)
    def at_home(matrix_path: Path, **options: Any) -> Any:  # noqa: ARG001
        return function(**options)

    return place_options(at_home)


@click.group(name="store")
def command() -> None:
    """List, check, tidy, export and import stored cells."""


@command.command(name="list")
@_home_options
def list_cells(home: Home) -> None:
    """List the cells with the size of their tensors, group by group: cells of a group can be compared.

    A tensor that several cells have is stored once, and counts once in the size of a group and of the store.
    """
    from harness.report.store_text import listing

    for line in listing(_store(home)):
        click.echo(line)


@command.command(name="verify")
@click.option("--quick", is_flag=True, help="Look at presence and length only, and read no bytes.")
@_home_options
def verify_store(quick: bool, home: Home) -> int:
    """Find what is damaged, missing or left over: every byte is compared with the digests that the records keep.

    Changes nothing, and may run while sweeps do. Exit code 1 when there is something to find.
    """
    from harness.report.store_text import audit_lines
    from harness.running.recover import left_runs
    from harness.store.audit import verify

    store = _store(home)
    found = verify(store, read=not quick)
    findings = (*found.findings, *left_runs(home))
    for line in audit_lines(store, found, findings, quick=quick):
        click.echo(line)
    return int(ExitCode.DIVERGENCE if findings else ExitCode.OK)


@command.command(name="gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--damaged", is_flag=True, help="Also remove what is damaged, and the cells that need it: the next sweep runs them."
)
@_home_options
def collect_garbage(dry_run: bool, damaged: bool, home: Home) -> None:
    """Remove what no record refers to: tensors, half-written files, and folders of runs whose harness was killed.

    Those runs are recorded as lost. What a `blame` made that was killed goes, too. May run while sweeps do; files that
    are not the harness's are named and left.
    """
    from harness.report.store_text import collected_lines
    from harness.running.recover import collect_runs
    from harness.store.audit import collect

    store = _store(home)
    runs = collect_runs(home, store, dry_run=dry_run)
    for line in collected_lines(store, runs, collect(store, damaged=damaged, dry_run=dry_run), dry_run=dry_run):
        click.echo(line)


def _tensors_option(default: str) -> Callable[[Function], Function]:
    return click.option(
        "--tensors",
        type=click.Choice(["none", "final", "all"]),
        default=default,
        help="Which tensors travel with the records.",
    )


@command.command(name="export")
@click.argument("folder", type=Writable())
@click.option("--group", help="Only cells whose group's digest starts so.")
@_home_options
@_tensors_option("final")
def export(folder: Path, group: str | None, tensors: str, home: Home) -> None:
    """Copy cells into FOLDER, a store of its own."""
    from harness.store.store import Store

    store = _store(home)
    cells = [cell for cell in store.cells() if cell.group.startswith(group or "")]
    if not cells:
        raise UsageError(
            f"{store.root} holds no cells{f' of a group {group!r}' if group else ''}; see `harness store list`."
        )
    click.echo(f"{_copied(store, Store(folder), cells, tensors)} copied to {folder}.")


@command.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@_home_options
@_tensors_option("all")
def import_(folder: Path, tensors: str, home: Home) -> None:
    """Copy the cells in FOLDER into the store; those that are there already stay."""
    from harness.files import writable_folder
    from harness.store.store import Store

    source = Store(folder)
    if not (cells := source.cells()):
        raise UsageError(
            f"{folder} holds no cells: name a folder that `harness store export` wrote, or a home's store."
        )
    writable_folder(home.store, "--home (or HARNESS_HOME)")
    click.echo(f"{_copied(source, Store(home.store), cells, tensors)} imported from {folder}.")


def _store(home: Home) -> Store:
    """The store of a home, which is there: of a home that is misspelt, nothing is whole."""
    from harness.store.store import Store

    if not home.store.is_dir():
        raise UsageError(
            f"There is no store in {home.root}: run `harness index VERSION` first, or name another --home."
        )
    return Store(home.store)


def _copied(source: Store, target: Store, cells: list[Cell], tensors: str) -> str:
    from harness.store.transfer import copy_cells
    from harness.words import count

    copied, objects = copy_cells(source, target, cells, tensors)
    return f"{count(copied, 'cell')} and {count(objects, 'tensor')}"
