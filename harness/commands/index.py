"""`harness index`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import (
    again_option,
    capture_option,
    evict_option,
    local_options,
    repeats_option,
    selection_options,
    sites_options,
)


@click.command(name="index")
@click.argument("versions", nargs=-1, required=True)
@selection_options
@sites_options
@repeats_option
@local_options
@capture_option
@evict_option
@again_option("cells")
def command(
    versions: tuple[str, ...],
    repeats: tuple[str, ...],
    evict: bool,
    again: bool,
    gpus: str | None,
    jobs: int,
    **options: Any,
) -> int:
    """Build environments of VERSIONS (or `all`) if needed, run the index job in each, and store the cells.

    Exit code 3 when a cell ended badly; a version whose wheel does not support the device is not an error.
    """
    from harness.commands.cells import run_cells
    from harness.running.selection import Selection

    *_, code = run_cells(Selection(**options), versions, repeats, evict=evict, again=again, gpus=gpus, jobs=jobs)
    return int(code)
