"""`harness compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import home_option, matrix_option
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.metrics import Profile


def store_root(matrix_path: Path | None, home: Path | None) -> Callable[[], Path]:
    """Find the store only when an argument needs it: pydantic and YAML take as long to import as comparing does."""

    def find() -> Path:
        from harness.home import resolve_home
        from harness.matrix import find_matrix

        path = (matrix_path or find_matrix()).resolve()
        return resolve_home(home, path).store

    return find


def profiles_for(matrix_path: Path | None, names: tuple[str, ...]) -> list[Profile]:
    """The built-in profiles, and those of matrix.yaml where one is named that is not built in, or a matrix is given.

    Raises:
        UsageError: a profile that exists nowhere.
    """
    from harness.metrics import BUILTIN, Profile

    profiles = {profile.name: profile for profile in BUILTIN}
    if matrix_path is not None or any(name not in profiles for name in names):
        from harness.matrix import find_matrix, load_matrix

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
@matrix_option
@home_option
def command(a: str, b: str, profile: str, as_json: bool, matrix_path: Path | None, home: Path | None) -> int:
    """Compare A with B: index directories, stored cells by version, or by the start of their key.

    B is the reference of relative differences. Exit code 0 when nothing differs beyond the profile and beyond what
    repeats of the cells show, 1 when something does, 2 when something cannot be read, a side has no tensor to compare,
    or nothing differs in indexes of which one is not whole.
    """
    from harness.compare import compare_sources, dumps
    from harness.ladder import names_of
    from harness.marks import mark
    from harness.render import text
    from harness.sources import resolve

    root = store_root(matrix_path, home)
    profiles = profiles_for(matrix_path, (profile,))
    left, right = resolve(a, root), resolve(b, root)
    comparison = mark(compare_sources(left, right, profiles, chosen=profile), left, right)
    a, b = names_of((left, right))
    comparison = dataclasses.replace(comparison, a=a, b=b)
    click.echo(dumps(comparison.to_json()) if as_json else text(comparison))
    return int(comparison.outcome)
