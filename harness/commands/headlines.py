"""`harness headlines`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.errors import ExitCode, printable


@click.command(name="headlines")
@click.argument("tables", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def command(tables: tuple[Path, ...], markdown: bool) -> int:
    """Show the headline tables of several sweeps side by side, and on which steps they disagree.

    TABLES are folders that --output wrote, or .csv files with the columns a, b, total, shapes_match, default_match and
    bnb_match, such as docs/article.csv. Exit code 1 when a step is beyond the default profile in one of them and within
    it in another.
    """
    from rich.markup import escape
    from rich.table import Table

    from harness.headlines import disagreements, read_headlines, side_by_side
    from harness.reduce import result_console
    from harness.tables import markdown_table

    read = [read_headlines(path) for path in tables]
    joined = side_by_side(read)
    columns = ["step", *map(str, joined.columns)]
    rows = [[f"{a} -> {b}", *map(str, words)] for (a, b), words in zip(joined.index, joined.to_numpy(), strict=True)]
    console = result_console()
    if markdown:
        console.print(markdown_table(columns, rows), markup=False, highlight=False, soft_wrap=True)
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(escape(printable(column)), overflow="fold")
        for row in rows:
            table.add_row(*(escape(printable(cell)) for cell in row))
        console.print(table)
    console.print()
    found = list(disagreements(read))
    about = [f"{title}: {one.about}" for title, one in zip(columns[1:], read, strict=True)]
    for line in [*about, *(found or ["No step is beyond default in one table and within it in another."])]:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    return int(ExitCode.DIVERGENCE if found else ExitCode.OK)
