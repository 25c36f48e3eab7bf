"""`harness all-pairs`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import axis_option, cell_options, chunks_option, group_option, json_option
from harness.errors import ExitCode, UsageError


@click.command(name="all-pairs")
@json_option
@chunks_option
@cell_options
@axis_option
@group_option
def command(as_json: bool, apart: bool, group: str | None, **options: Any) -> int:
    """Show all pairs of the stored versions by digest: equal classes per artifact, what changed when, and back.

    Reads the cells' records only, no tensor, and takes those that `harness plan` names for the same options. Exit code
    1 when any two versions differ beyond what their repeats show.
    """
    from harness.artifacts.ladder import all_pairs, ladder
    from harness.files import dumps
    from harness.report.ladder_text import ladder_text, pairs_text
    from harness.report.screen import Screen
    from harness.running.choice import Chooser, describe
    from harness.running.selection import Selection
    from harness.store.repeats import noise_floors, repeats_of

    chooser = Chooser(Selection(**options), group)
    choice = chooser.choose(labels=chooser.versions)
    if choice.note:
        click.echo(choice.note, err=True)
    on_axis = [cell for cell in choice.cells if chooser.matrix.axis_of(cell.version) == chooser.selection.axis]
    cells = [cell for cell in on_axis if cell.outcome == "ok" and not cell.repeat]
    if len(cells) < 2:
        who = f"Only {cells[0].label} ended" if cells else "No first run of a version ended"
        raise UsageError(
            f"{who} well in {describe(choice.cells)}, and pairs need two: run `harness index VERSION` with the same "
            "options."
        )
    kind = cells[0].job_kind
    items = [
        (cell.label, {name: one.digest for name, one in cell.artifacts.items() if kind.is_final(name)})
        for cell in cells
    ]
    floors = noise_floors({cell.label: cell for cell in cells}, lambda cell: repeats_of(cell, choice.cells))
    noise = {label: tuple(filter(kind.is_final, names)) for label, names in floors.items()}
    result, pairs = ladder(items, noise=noise, kind=kind), all_pairs(items, kind)
    if as_json:
        listed = [{"a": one.a, "b": one.b, "shared": one.shared, "changed": list(one.changed)} for one in pairs]
        click.echo(dumps(result.to_json() | {"pairs": listed}))
    else:
        screen = Screen.of()
        shown = [ladder_text(result, screen, apart=apart), pairs_text(result.items, pairs, screen)]
        click.echo("\n\n".join(shown), color=screen.styles)
    return int(ExitCode.DIVERGENCE if any(map(result.beyond_noise, pairs)) else ExitCode.OK)
