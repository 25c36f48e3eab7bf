"""`harness compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import chunks_option, group_option, selection_options
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.artifacts.source import ArtifactSource
    from harness.running.choice import Finder
    from harness.tensors.profiles import Profile


def sources_of(items: Sequence[str], group: str | None, options: dict[str, Any]) -> list[ArtifactSource]:
    """What items of a command line name: index directories, or stored cells; says which cells were not chosen.

    The store is looked for only when an item is no directory: pydantic and YAML take as long to import as comparing.
    """
    from harness.store.resolve import resolve

    finders: list[Finder] = []

    def find(item: str) -> ArtifactSource:
        if not finders:
            from harness.running.choice import Chooser, Finder
            from harness.running.experiment import Selection

            try:
                finders.append(Finder(Chooser(Selection(**options), group), items))
            except UsageError as error:
                raise UsageError(
                    f"There is no directory {item}, and no store to find a cell of that name in. {error}"
                ) from error
        return finders[0](item)

    found = [resolve(item, find) for item in items]
    for finder in finders:
        found = finder.titled(found)
        if finder.note:
            click.echo(finder.note, err=True)
    return found


def profiles_for(matrix_path: Path | None, names: tuple[str, ...]) -> list[Profile]:
    """The built-in profiles, and those of matrix.yaml where one is named that is not built in, or a matrix is given.

    Raises:
        UsageError: a profile that exists nowhere.
    """
    from harness.tensors.profiles import BUILTIN, Profile

    profiles = {profile.name: profile for profile in BUILTIN}
    if matrix_path is not None or any(name not in profiles for name in names):
        from harness.inputs.matrix_file import find_matrix, load_matrix

        try:
            path = matrix_path or find_matrix()
        except UsageError:
            path = None
        for name, rules in (load_matrix(path).tolerances if path else {}).items():
            others = {dtype: (rule.atol, rule.rtol) for dtype, rule in rules.items() if dtype != "other"}
            profiles[name] = Profile(name, (rules["other"].atol, rules["other"].rtol), others)
    for name in names:
        if name not in profiles:
            raise UsageError(
                f"There is no profile {name!r}: use one of {', '.join(profiles)}, or add it to matrix.yaml."
            )
    return list(profiles.values())


@click.command(name="compare")
@click.argument("a")
@click.argument("b")
@click.option("--profile", default="default", show_default=True, help="Tolerance that decides what is a divergence.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@chunks_option
@selection_options
@group_option
def command(a: str, b: str, profile: str, as_json: bool, apart: bool, group: str | None, **options: Any) -> int:
    """Compare A with B: index directories, stored cells by version, or by the start of their key.

    A version means the cell that `harness plan` names for the same options. B is the reference of relative differences.
    Exit code 0 when nothing differs beyond the profile and beyond what repeats of the cells show, 1 when something
    does, 2 when something cannot be read, a side has no tensor to compare, or nothing differs in indexes of which one
    is not whole.
    """
    from harness.artifacts.comparison import compare_sources
    from harness.artifacts.ladder import names_of
    from harness.explain.marks import mark
    from harness.files import dumps
    from harness.report.comparison_text import text
    from harness.report.screen import Screen

    profiles = profiles_for(options["matrix_path"], (profile,))
    left, right = sources_of((a, b), group, options)
    comparison = mark(compare_sources(left, right, profiles, chosen=profile), left, right)
    a, b = names_of((left, right))
    comparison = dataclasses.replace(comparison, a=a, b=b)
    screen = Screen.of()
    click.echo(dumps(comparison.to_json()) if as_json else text(comparison, screen, apart=apart), color=screen.styles)
    return int(comparison.outcome)
