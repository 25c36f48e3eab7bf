"""`harness train`."""

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
    train_options,
)


@click.command(name="train")
@click.argument("versions", nargs=-1, required=True)
@train_options
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
    """Train with VERSIONS (or `all`), each from the same triples, and store the cells; see docs/training.md.

    What is not named here is as `jobs.train` in matrix.yaml says. Exit code 3 when a cell ended badly; a version whose
    wheel does not support the device is not an error.
    """
    from harness.commands.cells import run_cells
    from harness.running.selection import Selection

    selection = Selection(job="train", **options)
    *_, code = run_cells(selection, versions, repeats, evict=evict, again=again, gpus=gpus, jobs=jobs)
    return int(code)
