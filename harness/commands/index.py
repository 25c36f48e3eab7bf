"""`harness index`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import job_options, ranks_option


@click.command(name="index")
@click.argument("versions", nargs=-1, required=True)
@ranks_option
@job_options
def command(versions: tuple[str, ...], **options: Any) -> int:
    """Build environments of VERSIONS (or `all`) if needed, run the index job in each, and store the cells.

    Exit code 3 when a cell ended badly; a version whose wheel does not support the device is not an error.
    """
    from harness.commands.cells import run_cells, selected

    selection, running = selected("index", options)
    *_, code = run_cells(selection, versions, **running)
    return int(code)
