"""`harness ladder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import cell_options, chunks_option, group_option, json_option
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.artifacts.source import ArtifactSource
    from harness.store.cell import Cell


@click.command(name="ladder")
@click.argument("items", nargs=-1, required=True)
@json_option
@chunks_option
@click.option(
    "--no-cache",
    is_flag=True,
    help="Read all files of directories, also those that are as they were when a ladder last read them.",
)
@cell_options
@group_option
def command(
    items: tuple[str, ...], as_json: bool, apart: bool, no_cache: bool, group: str | None, **options: Any
) -> int:
    """Show for ITEMS in order, index directories or stored cells, what changed at each step and which are equal.

    A version means the cell that `harness plan` names for the same options. Exit code 0 when no step changed a tensor
    beyond what repeats of its items show, 1 when one did, 2 when something cannot be read, an item has no tensor, or
    nothing changed in items of which one is not whole.
    """
    from harness.artifacts.kinds import kind_of
    from harness.artifacts.ladder import all_digests, ladder, unrecorded_of
    from harness.artifacts.remembered import Remembered
    from harness.artifacts.source import first_missing, names_of
    from harness.files import dumps
    from harness.report.ladder_text import ladder_text
    from harness.report.screen import Screen
    from harness.running.named import named_sources

    if len(items) < 2:
        raise UsageError("A ladder needs at least two items: give index directories or stored versions, in order.")
    sources, note = named_sources(items, group, options)
    if note:
        click.echo(note, err=True)
    found = all_digests(sources, Remembered() if no_cache else Remembered.of_user())
    names = names_of(sources)
    by_name = dict(zip(names, sources, strict=True))
    result = ladder(
        [(name, digests) for name, (digests, _) in zip(names, found, strict=True)],
        [problem for _, problems in found for problem in problems],
        noise_of(by_name),
        {name: lacking for name, source in by_name.items() if (lacking := first_missing(source))},
        unrecorded_of(by_name),
        kind_of(sources[0]),
    )
    screen = Screen.of()
    click.echo(dumps(result.to_json()) if as_json else ladder_text(result, screen, apart=apart), color=screen.styles)
    return int(result.outcome)


def noise_of(sources: Mapping[str, ArtifactSource]) -> dict[str, tuple[str, ...]]:
    """Tensors of stored cells that running them again changes, for those that were run again."""
    cells: dict[str, Cell] = {name: cell for name, one in sources.items() if (cell := getattr(one, "cell", None))}
    if not cells:
        return {}  # two directories need nothing of what a store needs, which starts slowly
    from harness.store.repeats import noise_floors

    # All cells are of the one store that the command found.
    store = next(one.store for one in sources.values() if hasattr(one, "store"))
    floors = noise_floors(cells, store.repeats)
    return {
        name: tuple(one for one in floor if one not in cells[name].job_kind.values) for name, floor in floors.items()
    }
