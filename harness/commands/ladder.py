"""`harness ladder`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.compare import store_root
from harness.commands.options import home_option, matrix_option
from harness.errors import ExitCode, UsageError


@click.command(name="ladder")
@click.argument("items", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@matrix_option
@home_option
def command(items: tuple[str, ...], as_json: bool, matrix_path: Path | None, home: Path | None) -> int:
    """Show for ITEMS in order, index directories or stored cells, what changed at each step and which are equal.

    Exit code 0 when no step changed a tensor beyond what repeats of its items show, 1 when one did, 2 when something
    cannot be read or no item has a tensor.
    """
    from harness.compare import dumps
    from harness.ladder import all_digests, ladder, noise_floor, unique_names
    from harness.render import ladder_text
    from harness.sources import resolve

    if len(items) < 2:
        raise UsageError("A ladder needs at least two items: give index directories or stored versions, in order.")
    sources = [resolve(item, store_root(matrix_path, home)) for item in items]
    found = all_digests(sources)
    names = unique_names([source.name for source in sources])
    noise = {}
    for name, source in zip(names, sources, strict=True):
        cell = getattr(source, "cell", None)
        floor = noise_floor(cell, source.store.cells()) if cell is not None else None  # type: ignore[attr-defined]
        if floor is not None:
            noise[name] = floor
    result = ladder(
        [(name, digests) for name, (digests, _) in zip(names, found, strict=True)],
        [problem for _, problems in found for problem in problems],
        noise,
    )
    click.echo(dumps(result.to_json()) if as_json else ladder_text(result))
    if result.unreadable or result.empty:
        return int(ExitCode.USAGE)
    return int(ExitCode.DIVERGENCE if result.changed else ExitCode.OK)
