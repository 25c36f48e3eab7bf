"""`harness train`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import job_options, ranks_option, train_options


@click.command(name="train")
@click.argument("versions", nargs=-1, required=True)
@train_options
@ranks_option
@job_options
def command(versions: tuple[str, ...], **options: Any) -> int:
    """Train with VERSIONS (or `all`), each from the same triples, and store the cells; see docs/training.md.

    What is not named here is as `jobs.train` in matrix.yaml says. Exit code 3 when a cell ended badly; a version whose
    wheel does not support the device is not an error.
    """
    from harness.commands.cells import run_cells, selected

    selection, running = selected("train", options)
    *_, code = run_cells(selection, versions, **running)
    return int(code)
