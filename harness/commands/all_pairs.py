"""`harness all-pairs`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.compare import store_root
from harness.commands.options import chunks_option, home_option, matrix_option
from harness.errors import ExitCode, UsageError


@click.command(name="all-pairs")
@click.option("--group", help="Start of a group's digest, where the store holds several.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@chunks_option
@matrix_option
@home_option
def command(group: str | None, as_json: bool, apart: bool, matrix_path: Path | None, home: Path | None) -> int:
    """Show all pairs of the stored versions by digest: equal classes per artifact, what changed when, and back.

    Reads the cells' records only, no tensor. Exit code 1 when any two versions differ beyond what their repeats show.
    """
    from harness.compare import dumps
    from harness.ladder import all_pairs, ladder, noise_floor
    from harness.pipeline import is_final
    from harness.render import ladder_text, pairs_text
    from harness.screen import Screen
    from harness.store import Store

    found = [cell for cell in Store(store_root(matrix_path, home)()).cells() if cell.outcome == "ok"]
    cells = [
        cell for cell in found if not cell.repeat and not cell.spec.get("swap") and cell.spec.get("job") != "probe"
    ]
    groups = sorted({cell.group for cell in cells})
    chosen = [name for name in groups if name.startswith(group or "")]
    if not chosen:
        raise UsageError(
            f"--group {group!r} names none of the groups in the store: {', '.join(groups)}."
            if groups
            else "The store holds no finished cells yet: run `harness index VERSION` first."
        )
    if len(chosen) > 1:
        listing = "; ".join(f"{name[:12]} ({sum(cell.group == name for cell in cells)} versions)" for name in chosen)
        raise UsageError(f"The store holds {len(chosen)} groups of cells; name one with --group: {listing}.")
    items = [
        (cell.label, {name: one.digest for name, one in cell.artifacts.items() if is_final(name)})
        for cell in cells
        if cell.group == chosen[0]
    ]
    floors = {cell.label: noise_floor(cell, found) for cell in cells if cell.group == chosen[0]}
    noise = {item: tuple(filter(is_final, names)) for item, names in floors.items() if names is not None}
    result, pairs = ladder(items, noise=noise), all_pairs(items)
    if as_json:
        listed = [{"a": one.a, "b": one.b, "shared": one.shared, "changed": list(one.changed)} for one in pairs]
        click.echo(dumps(result.to_json() | {"pairs": listed}))
    else:
        screen = Screen.of()
        shown = [ladder_text(result, screen, apart=apart), pairs_text(result.items, pairs, screen)]
        click.echo("\n\n".join(shown), color=screen.styles)
    return int(ExitCode.DIVERGENCE if any(map(result.beyond_noise, pairs)) else ExitCode.OK)
