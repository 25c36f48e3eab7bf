"""`harness plot`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import Writable


@click.command(name="plot")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", type=Writable(), default="plots", help="Folder for the files.")
def command(folder: Path, output: Path) -> int:
    """Draw the charts of a folder of tables as SVG and PNG, for release notes.

    These are the ladder of all steps, and where the tables hold them: how far apart the elements of each changed step
    are, its loss curves, and of how many queries the rankings change. FOLDER is one that `harness consecutive` or a
    sweep wrote. The files are named after what they show: ladder.svg, spread-2.9.1-2.10.0.png.
    """
    from harness.report.page.folder import read_folders
    from harness.report.page.plots import write_plots

    [read] = read_folders([folder])
    written, missing = write_plots(read, output)
    for path in written:
        click.echo(str(path))
    for sentence in missing:
        click.echo(sentence, err=True)
    return 0
