"""`harness search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import (
    Writable,
    again_option,
    capture_option,
    evict_option,
    local_options,
    repeats_option,
    search_options,
    selection_options,
    sites_options,
)


@click.command(name="search")
@click.argument("versions", nargs=-1, required=True)
@search_options
@selection_options
@sites_options
@repeats_option
@local_options
@capture_option
@click.option("--trec", type=Writable(), help="Write a run file of each search to this folder, in TREC's format.")
@click.option(
    "--deployments",
    is_flag=True,
    help="Search the indexes of the version before and after, too: all four deployments of each two versions "
    "(docs/rankings.md).",
)
@evict_option
@again_option("cells")
def command(
    versions: tuple[str, ...],
    repeats: tuple[str, ...],
    trec: Path | None,
    deployments: bool,
    evict: bool,
    again: bool,
    gpus: str | None,
    jobs: int,
    **options: Any,
) -> int:
    """Search with VERSIONS (or `all`), each in its own index, and store the cells; see docs/search.md.

    A version's index that is not stored yet is made first. Exit code 3 when a cell ended badly; a version whose wheel
    does not support the device is not an error.
    """
    from harness.commands.cells import run_cells
    from harness.errors import UsageError
    from harness.running.run_files import write_run
    from harness.running.selection import Selection

    selection = Selection(job="search", **options)
    if deployments and selection.searched:
        raise UsageError("--deployments searches each version's index: leave --on and --index out.")
    experiment, cells, code = run_cells(
        selection, versions, repeats, evict=evict, again=again, gpus=gpus, jobs=jobs, deployments=deployments
    )
    for cell in cells if trec is not None else ():
        assert trec is not None
        if cell.outcome == "ok":
            click.echo(f"Run: {write_run(experiment, cell, trec)}")
    return int(code)
