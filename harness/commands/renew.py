"""`harness renew`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="renew")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False, exists=True))
def command(folders: tuple[Path, ...]) -> None:
    """Write the tables in FOLDERS, and below them, again where they are of an older schema.

    They are made from themselves: columns get their names of today, and those that are new follow from others; no value
    is changed. Nothing has to be renewed to be read by other commands.
    """
    from harness.report.parquet import renew_table

    paths = sorted({path for folder in folders for path in folder.rglob("*.parquet")})
    renewed = [path for path in paths if renew_table(path, "name folders of tables only")]
    for path in renewed:
        click.echo(str(path))
    click.echo(f"{len(renewed)} of {len(paths)} tables were of an older schema.")
