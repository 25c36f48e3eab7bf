"""`harness report`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import Writable


@click.command(name="report")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option(
    "--output", type=Writable(file=True), default="report.html", help="The page; its links are relative to it."
)
def command(folders: tuple[Path, ...], output: Path) -> int:
    """Turn folders of tables into one HTML page: the verdict, the ladder of all steps, and what is known of each.

    A FOLDER is one that `harness consecutive` or a sweep wrote, with what locate, blame, probes and others added to it;
    several are shown side by side. The page is one file that loads nothing, and can be read without JavaScript.
    """
    from harness.report.page.page import write_page

    click.echo(str(write_page(folders, output)))
    return 0
