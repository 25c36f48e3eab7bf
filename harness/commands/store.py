"""`harness store`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import Writable, home_option, matrix_option
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.store.store import Store


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
    """List, check, tidy, export and import stored cells."""


@command.command(name="list")
@matrix_option
@home_option
def list_cells(matrix_path: Path | None, home: Path | None) -> None:
    """List the cells with the size of their tensors, group by group: cells of a group can be compared.

    A tensor that several cells have is stored once, and counts once in the size of a group and of the store.
    """
    from harness.report.store_text import listing

    for line in listing(_store(matrix_path, home)):
        click.echo(line)


@command.command(name="verify")
@click.option("--quick", is_flag=True, help="Look at presence and length only, and read no bytes.")
@matrix_option
@home_option
def verify_store(quick: bool, matrix_path: Path | None, home: Path | None) -> int:
    """Find what is damaged, missing or left over: every byte is compared with the digests that the records keep.

    Changes nothing, and may run while sweeps do. Exit code 1 when there is something to find.
    """
    from harness.errors import printable
    from harness.home import resolve_home
    from harness.inputs.matrix_file import find_matrix
    from harness.running.recover import left_runs
    from harness.store.audit import counts, verify
    from harness.words import count, size

    store = _store(matrix_path, home)
    found = verify(store, read=not quick)
    findings = (*found.findings, *left_runs(resolve_home(home, (matrix_path or find_matrix()).resolve())))
    for finding in findings:
        click.echo(f"{finding.kind:9} {printable(finding.path)}: {printable(finding.text)}")
    checked = f"{count(found.cells, 'cell')} and {count(found.objects, 'tensor')} ({size(found.size)})"
    how = "there with their full length" if quick else "whole"
    click.echo(f"{store.root}: {checked} are {how}; {counts(findings) or 'nothing else'} found.")
    if findings:
        click.echo(
            "`harness store gc` removes orphans and leftovers, with --damaged also damaged cells, to be run again."
        )
    return int(ExitCode.DIVERGENCE if findings else ExitCode.OK)


@command.command(name="gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--damaged", is_flag=True, help="Also remove what is damaged, and the cells that need it: the next sweep runs them."
)
@matrix_option
@home_option
def collect_garbage(dry_run: bool, damaged: bool, matrix_path: Path | None, home: Path | None) -> int:
    """Remove what no record refers to: tensors, half-written files, and folders of runs whose harness was killed.

    Those runs are recorded as lost. May run while sweeps do; files that are not the harness's are named and left.
    """
    from harness.errors import printable
    from harness.home import resolve_home
    from harness.inputs.matrix_file import find_matrix
    from harness.running.recover import collect_runs
    from harness.store.audit import collect
    from harness.words import count, size

    store = _store(matrix_path, home)
    runs = collect_runs(resolve_home(home, (matrix_path or find_matrix()).resolve()), store, dry_run=dry_run)
    done = collect(store, damaged=damaged, dry_run=dry_run)
    word = "would remove" if dry_run else "removed"
    for finding in (*runs, *(finding for finding, _ in done.removed)):
        click.echo(f"{word} {printable(finding.path)}: {finding.kind}, {printable(finding.text)}")
    for finding in done.kept:
        click.echo(f"left {printable(finding.path)}: {finding.kind}, {printable(finding.text)}")
    number = len(done.removed) + len(runs)
    click.echo(f"{store.root}: {word} {count(number, 'item')}, {size(done.size)} in the store.")
    return int(ExitCode.OK)


@command.command(name="export")
@click.argument("folder", type=Writable())
@click.option("--group", default="", help="Only cells whose group's digest starts so.")
@matrix_option
@home_option
def export(folder: Path, group: str, tensors: str, matrix_path: Path | None, home: Path | None) -> None:
    """Copy cells into FOLDER, a store of its own."""
    from harness.store.store import Store
    from harness.store.transfer import copy_cells
    from harness.words import count

    store = _store(matrix_path, home)
    cells = [cell for cell in store.cells() if cell.group.startswith(group)]
    if not cells:
        raise UsageError(
            f"{store.root} holds no cells{f' of a group {group!r}' if group else ''}; see `harness store list`."
        )
    copied, objects = copy_cells(store, Store(folder), cells, tensors)
    click.echo(f"{count(copied, 'cell')} and {count(objects, 'tensor')} copied to {folder}.")


@command.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@matrix_option
@home_option
def import_(folder: Path, tensors: str, matrix_path: Path | None, home: Path | None) -> None:
    """Copy the cells in FOLDER into the store; those that are there already stay."""
    from harness.store.store import Store
    from harness.store.transfer import copy_cells
    from harness.words import count

    source = Store(folder)
    cells = source.cells()
    if not cells:
        raise UsageError(
            f"{folder} holds no cells: name a folder that `harness store export` wrote, or a home's store."
        )
    copied, objects = copy_cells(source, _store(matrix_path, home, must_exist=False), cells, tensors)
    click.echo(f"{count(copied, 'cell')} and {count(objects, 'tensor')} imported from {folder}.")


export.params.append(_tensors("final"))
import_.params.append(_tensors("all"))


def _store(matrix_path: Path | None, home: Path | None, *, must_exist: bool = True) -> Store:
    """The store of a home.

    Raises:
        UsageError: there is none, and it `must_exist`: of a home that is misspelt, nothing is whole; or none can be
            made there.
    """
    from harness.files import writable_folder
    from harness.home import resolve_home
    from harness.inputs.matrix_file import find_matrix
    from harness.store.store import Store

    path = (matrix_path or find_matrix()).resolve()
    store = Store(resolve_home(home, path).store)
    if not must_exist:
        writable_folder(store.root, "--home (or HARNESS_HOME)")
    elif not store.root.is_dir():
        raise UsageError(
            f"There is no store in {store.root.parent}: run `harness index VERSION` first, or name another --home."
        )
    return store
