"""`harness ladder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import chunks_option, group_option, selection_options
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.artifacts.source import ArtifactSource


@click.command(name="ladder")
@click.argument("items", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@chunks_option
@selection_options
@group_option
def command(items: tuple[str, ...], as_json: bool, apart: bool, group: str | None, **options: Any) -> int:
    """Show for ITEMS in order, index directories or stored cells, what changed at each step and which are equal.

    A version means the cell that `harness plan` names for the same options. Exit code 0 when no step changed a tensor
    beyond what repeats of its items show, 1 when one did, 2 when something cannot be read, an item has no tensor, or
    nothing changed in items of which one is not whole.
    """
    from harness.artifacts.ladder import all_digests, ladder, names_of
    from harness.artifacts.source import first_missing
    from harness.files import dumps
    from harness.report.ladder_text import ladder_text
    from harness.report.screen import Screen
    from harness.running.named import named_sources

    if len(items) < 2:
        raise UsageError("A ladder needs at least two items: give index directories or stored versions, in order.")
    sources, note = named_sources(items, group, options)
    if note:
        click.echo(note, err=True)
    found = all_digests(sources)
    names = names_of(sources)
    by_name = dict(zip(names, sources, strict=True))
    result = ladder(
        [(name, digests) for name, (digests, _) in zip(names, found, strict=True)],
        [problem for _, problems in found for problem in problems],
        noise_of(by_name),
        {name: lacking for name, source in by_name.items() if (lacking := first_missing(source))},
    )
    screen = Screen.of()
    click.echo(dumps(result.to_json()) if as_json else ladder_text(result, screen, apart=apart), color=screen.styles)
    return int(result.outcome)


def noise_of(sources: Mapping[str, ArtifactSource]) -> dict[str, tuple[str, ...]]:
    """Tensors of stored cells that running them again changes, for those that were run again."""
    cells = {name: source for name, source in sources.items() if hasattr(source, "cell")}
    if not cells:
        return {}
    from harness.artifacts.index_job import VALUES
    from harness.artifacts.names import in_order
    from harness.store.repeats import noise_floor, repeats_of
    from harness.store.stored import StoredCell

    found = {}
    for name, source in cells.items():
        assert isinstance(source, StoredCell)
        floor = noise_floor(source.cell, repeats_of(source.cell, source.store.cells()))
        if floor is not None:
            found[name] = tuple(in_order(floor - VALUES))
    return found
