"""`harness lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import place_options

if TYPE_CHECKING:
    from harness.home import Home
    from harness.inputs.matrix import Flavour


@click.command(name="lock")
@click.argument("versions", nargs=-1)
@click.option("--diff", nargs=2, metavar="A B", help="Print the packages that differ between two versions instead.")
@click.option("--flavour", type=click.Choice(["cpu", "gpu"]), default="cpu", help="For --diff.")
@place_options
def command(
    versions: tuple[str, ...], diff: tuple[str, str] | None, flavour: Flavour, matrix_path: Path, home: Home
) -> None:
    """Write the lock files of VERSIONS (default: all, and all points of axes), or show the difference of two versions.

    The lock of a point of an axis, such as transformers-4.44.2, holds what it has not in common with that of its torch.
    In a difference, a package that has another name in B is one row, and what torch (or an axis's package) does not
    require has a note.
    Where one cannot be resolved, none is written. Downloads are kept in uv's cache below --home.
    """
    from functools import partial

    from harness.environments.changes import changes, required_by, undeclared
    from harness.environments.lockfile import lock_of
    from harness.environments.resolve import write_locks
    from harness.environments.uv import run_uv
    from harness.inputs.matrix_file import load_matrix, own_matrix

    matrix = load_matrix(matrix_path)
    locks = matrix_path.parent / "locks"
    if diff:
        a, b = (lock_of(matrix, locks, version, flavour) for version in diff)
        forbidden = undeclared(matrix, a, b)
        varied = dict.fromkeys((a.varied, b.varied))
        for change in changes(a, b):
            who = required_by(change, a, b)
            more = ", not on the allow-list" if change in forbidden else ""
            note = f"  (required by {', '.join(who)}, not by {' or '.join(varied)}{more})"
            click.echo(change.title + (note if not varied.keys() & {*who} else ""))
        click.get_current_context().exit(1 if forbidden else 0)
    chosen = [matrix.require(version) for version in versions] or matrix.names
    own_matrix(matrix_path)
    for written in write_locks(matrix, locks, chosen, partial(run_uv, home)):
        click.echo(str(written.relative_to(matrix_path.parent)))
