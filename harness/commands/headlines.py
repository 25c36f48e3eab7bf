"""`harness headlines`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import markdown_option
from harness.errors import ExitCode, printable


@click.command(name="headlines")
@click.argument("tables", nargs=-1, required=True, type=click.Path(path_type=Path))
@markdown_option
def command(tables: tuple[Path, ...], markdown: bool) -> int:
    """Show the headline tables of several sweeps side by side, and on which steps they disagree.

    TABLES are folders that --output wrote, or .csv files with the columns a, b, total, shapes_match, default_match and
    bnb_match, such as docs/article.csv. Exit code 1 when a step is beyond the default profile in one of them and within
    it in another.
    """
    from harness.report.headlines import disagreements, read_headlines, side_by_side
    from harness.report.readable import markdown_table
    from harness.report.screen import Screen, table, wrap

    read = [read_headlines(path) for path in tables]
    titles, joined = side_by_side(read)
    columns, rows = ["step", *titles], [[f"{a} -> {b}", *words] for (a, b), words in joined.items()]
    screen = Screen.of()
    if markdown:
        lines = [markdown_table(columns, rows)]
    else:
        shown = [[printable(cell) for cell in row] for row in (columns, *rows)]
        lines = table(shown[0], shown[1:], screen)
    found = list(disagreements(read))
    about = [f"{title}: {one.about}" for title, one in zip(titles, read, strict=True)]
    lines.append("")
    for line in [*about, *(found or ["No step is beyond default in one table and within it in another."])]:
        lines += wrap(printable(line), None if markdown else screen.width)
    click.echo("\n".join(lines), color=screen.styles)
    return int(ExitCode.DIVERGENCE if found else ExitCode.OK)
