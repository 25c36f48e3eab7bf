"""`harness versions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import home_option, index_option, matrix_option
from harness.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.environments.offers import Offer


@click.command(name="versions")
@click.argument("versions", nargs=-1)
@click.option(
    "--add", is_flag=True, help="Add VERSIONS to matrix.yaml and lock them (default: the new releases that install)."
)
@index_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@matrix_option
@home_option
def command(
    versions: tuple[str, ...], add: bool, index: str | None, as_json: bool, matrix_path: Path | None, home: Path | None
) -> None:
    """List what the package index has and matrix.yaml has not, with the Pythons that each has wheels for.

    With --add, VERSIONS become lines of matrix.yaml, in order, and are locked for CPU and GPU: all of them or none.
    """
    from functools import partial

    from harness.environments.offers import missing, offered, to_add, with_index
    from harness.environments.resolve import replace_all, resolve_locks
    from harness.environments.uv import run_uv
    from harness.files import dumps
    from harness.home import resolve_home
    from harness.inputs.matrix_edit import with_versions
    from harness.inputs.matrix_file import find_matrix, load_matrix, own_matrix

    if versions and not add:
        raise UsageError("VERSIONS are for --add: give it, too, or leave them out to see what there is.")
    path = (matrix_path or find_matrix()).resolve()
    matrix = load_matrix(own_matrix(path) if add else path)
    extended, name = with_index(matrix, index)
    offers = missing(extended, offered(extended, name), name)
    if not add:
        lines = [dumps({"versions": [_object(offer) for offer in offers]})] if as_json else _lines(offers)
        for line in lines:
            click.echo(printable(line) if not as_json else line)
        return
    chosen = to_add(extended, offers, versions)
    made: list[Path] = []
    if chosen:
        listed = [offer.listed for offer in chosen]
        text, grown = with_versions(path.read_text(encoding="utf-8"), listed, extended.indexes, path.name)
        run = partial(run_uv, resolve_home(home, path))
        texts = resolve_locks(grown, path.parent / "locks", [one.version for one in listed], run)
        made = [place for place, new in texts.items() if not _is(place, new)]
        replace_all({**texts, path: text})
    if as_json:
        click.echo(dumps({"added": [_object(offer) for offer in chosen]}))
        return
    for place in made:
        click.echo(str(place.relative_to(path.parent)))
    added = ", ".join(offer.version for offer in chosen)
    click.echo(f"Added to {path.name}: {added}." if added else "There is no new release that installs here.")
    for offer in offers:
        if not versions and offer.newer and not offer.prerelease and offer not in chosen:
            click.echo(printable(f"Not added: {offer.version}: {_why(offer)}."))


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def _object(offer: Offer) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(offer)


def _lines(offers: Sequence[Offer]) -> Iterator[str]:
    """One line for each that is newer than the matrix or can be installed, and a count of the rest."""
    from harness.words import count

    shown = [offer for offer in offers if offer.newer or offer.installs]
    if not any(offer.newer for offer in shown):
        yield "The package index has no release that is newer than the newest of the matrix."
    for offer in shown:
        day = (offer.uploaded or "").partition("T")[0]
        yield f"{offer.version:24} {day or '-':10}  {'new' if offer.wanted else _why(offer)}"
    older = len(offers) - len(shown)
    if older:
        yield f"{count(older, 'older version')} without a wheel for the matrix's Python and platform; --json has them."


def _why(offer: Offer) -> str:
    """Why a version is not a new release that installs."""
    if offer.yanked is not None:
        return f"yanked: {offer.yanked}"
    if not offer.installs:
        has = f"has wheels for {', '.join(offer.pythons)}" if offer.pythons else "has none for the platform"
        return f"no wheel for the matrix's Python ({has})"
    return "pre-release" if offer.prerelease else "older than the newest of the matrix"
