"""`harness compare`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from harness.commands.options import cell_options, chunks_option, group_option, json_option


@click.command(name="compare")
@click.argument("a")
@click.argument("b")
@click.option("--profile", default="default", help="Tolerance that decides what is a divergence.")
@json_option
@chunks_option
@cell_options
@group_option
def command(a: str, b: str, profile: str, as_json: bool, apart: bool, group: str | None, **options: Any) -> int:
    """Compare A with B: index directories, stored cells by version, or by the start of their key.

    A version means the cell that `harness plan` names for the same options. B is the reference of relative differences.
    Exit code 0 when nothing differs beyond the profile and beyond what repeats of the cells show, 1 when something
    does, 2 when something cannot be read, a side has no tensor to compare, or nothing differs in indexes of which one
    is not whole.
    """
    from harness.artifacts.comparison import compare_sources
    from harness.artifacts.source import names_of
    from harness.explain.marks import mark
    from harness.files import dumps
    from harness.inputs.tolerances import profiles_for
    from harness.report.comparison_text import text
    from harness.report.screen import Screen, wrap
    from harness.running.named import named_sources

    profiles = profiles_for(options["matrix_path"], (profile,))
    (left, right), note = named_sources((a, b), group, options)
    if note:
        click.echo(note, err=True)
    comparison = mark(compare_sources(left, right, profiles, chosen=profile), left, right)
    a, b = names_of((left, right))
    comparison = dataclasses.replace(comparison, a=a, b=b)
    screen = Screen.of()
    record, told = comparison.to_json(), [text(comparison, screen, apart=apart)]
    # What only some comparisons need is imported here: two folders are compared without it, and start fast.
    if comparison.kind.stepwise:
        from harness.explain.training import training_of
        from harness.report.training_text import training_text

        if training := training_of(left, right):
            record |= {"training": training.to_json()}
            told = [training_text(training, screen), "", *told]
    cells = [cell for one in (left, right) if (cell := getattr(one, "cell", None)) is not None]
    # Between two versions of the matrix torch differs, and what it requires.
    if len(cells) == 2 and any(cell.spec.own for cell in cells):
        from harness.explain.packages import package_changes
        from harness.report.packages_text import packages_json, packages_sentence

        differ = package_changes(*cells)
        record |= {"packages": packages_json(differ)}
        told += wrap(packages_sentence(a, b, differ), screen.width)
    click.echo(dumps(record) if as_json else "\n".join(told), color=screen.styles)
    return int(comparison.outcome)
