"""`harness nightly`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import Writable
from harness.errors import ExitCode


@click.command(name="nightly")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--night", "name", metavar="NAME", help="Tonight's folder in FOLDER (default: the last by name).")
@click.option(
    "--summary",
    type=Writable(file=True),
    help="Also append the summary to this file, as Markdown (in a workflow: $GITHUB_STEP_SUMMARY).",
)
def command(folder: Path, name: str | None, summary: Path | None) -> int:
    """Compare a night's tables with those of the nights before, which lie beside it in FOLDER.

    FOLDER holds the --output folders of nightly sweeps, whose names sort by time. Exit code 1 when something diverges
    that did not diverge before, or diverges more; 0 when everything is as it was; 3 when tonight has no tables.
    """
    from harness.errors import HarnessError
    from harness.report.nightly import compare_nights
    from harness.report.nightly_text import markdown

    try:
        found = compare_nights(folder, name)
    except HarnessError as error:
        _append(summary, f"## Night {name or ''}\n\n{error}\n")
        raise
    text = markdown(found)
    click.echo(text)
    _append(summary, text)
    return int(ExitCode.DIVERGENCE if found.new else ExitCode.OK)


def _append(path: Path | None, text: str) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
