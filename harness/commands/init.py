"""`harness init`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import Writable
from harness.errors import UsageError

TRAVELS = ("locks/cpu", "locks/gpu", "docs/matrix.schema.json", "matrix.yaml")
"""What travels in the wheel, in the order in which it is written: `matrix.yaml` last, which says that all is there."""


@click.command(name="init")
@click.argument("folder", type=Writable(), default=".")
def command(folder: Path) -> None:
    """Write the matrix.yaml that is used where there is none, with its locks, to FOLDER, to make it your own.

    Without it, commands take the one that comes with the package, and keep environments and cells in `.harness` of the
    current folder. Nothing that is there is written over.
    """
    import shutil

    from harness.home import default_matrix

    source = default_matrix().parent
    for name in TRAVELS:
        if (folder / name).exists():
            raise UsageError(f"{folder / name} is there already: name another folder, or move it away.")
    for name in TRAVELS:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target)
        else:
            shutil.copyfile(source / name, target)
    click.echo(f"Wrote {folder / 'matrix.yaml'}, the locks of its versions (locks) and its schema (docs).")
    click.echo("`harness doctor` says what this machine can run; `harness plan` what would run.")
