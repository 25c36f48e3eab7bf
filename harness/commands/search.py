"""`harness search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, job_options, search_options


@click.command(name="search")
@click.argument("versions", nargs=-1, required=True)
@search_options
@click.option("--trec", type=Writable(), help="Write a run file of each search to this folder, in TREC's format.")
@click.option(
    "--deployments",
    is_flag=True,
    help="Search the indexes of the version before and after, too: all four deployments of each two versions "
    "(docs/rankings.md).",
)
@job_options
def command(versions: tuple[str, ...], trec: Path | None, deployments: bool, **options: Any) -> int:
    """Search with VERSIONS (or `all`), each in its own index, and store the cells; see docs/search.md.

    A version's index that is not stored yet is made first. Exit code 3 when a cell ended badly; a version whose wheel
    does not support the device is not an error.
    """
    from harness.commands.cells import run_cells, selected
    from harness.errors import UsageError
    from harness.running.run_files import write_run

    selection, running = selected("search", options)
    if deployments and selection.searched:
        raise UsageError("--deployments searches each version's index: leave --on and --index out.")
    experiment, cells, code = run_cells(selection, versions, **running, deployments=deployments)
    for cell in cells if trec is not None else ():
        assert trec is not None
        if cell.outcome == "ok":
            click.echo(f"Run: {write_run(experiment, cell, trec)}")
    return int(code)
