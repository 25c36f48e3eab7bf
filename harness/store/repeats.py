"""Runs of one cell again, and what they change: the noise floor, by one rule for all who ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from harness.store.cell import Cell


def repeats_of(cell: Cell, cells: Iterable[Cell]) -> list[Cell]:
    """Those of `cells` that are other runs of exactly this one, however they ended; none other tells of its noise.

    Of all that is stored, `Store.repeats` has them.
    """
    own = cell.spec.again(0)
    # Most of a set are of other versions, which is seen at once.
    mine = (one for one in cells if one.version == cell.version and one.key != cell.key)
    return [one for one in mine if one.spec.again(0) == own]


def noise_floor(cell: Cell, repeats: Iterable[Cell]) -> frozenset[str] | None:
    """Artifacts whose digests differ between a cell and any of its repeats, and that both recorded.

    Args:
        cell: that ended well.
        repeats: from `repeats_of`; those that did not end well say nothing.

    Returns:
        None where no repeat ended well: the noise floor is not known then, which is not the same as none.
    """
    good = [repeat for repeat in repeats if repeat.outcome == "ok"]
    if not good:
        return None
    return frozenset(
        name
        for other in good
        for name in {*cell.artifacts, *other.artifacts} - unrecorded(cell, other)
        if _digest(cell, name) != _digest(other, name)
    )


def noise_floors(named: Mapping[str, Cell], repeats: Callable[[Cell], Iterable[Cell]]) -> dict[str, tuple[str, ...]]:
    """Name to what changed when its cell was run again, in the pipeline's order; only of cells that were run again.

    Args:
        named: cells that ended well.
        repeats: other runs of a cell: `Store.repeats`, or `repeats_of` among some cells.
    """
    floors = {name: noise_floor(cell, repeats(cell)) for name, cell in named.items()}
    return {name: tuple(named[name].job_kind.in_order(floor)) for name, floor in floors.items() if floor is not None}


def unrecorded(a: Cell, b: Cell) -> frozenset[str]:
    """Artifacts that one of two cells has, and of which the other has no record: nobody knows whether they differ."""
    return frozenset(name for name in {*a.artifacts, *b.artifacts} if a.unrecorded(name) or b.unrecorded(name))


def _digest(cell: Cell, name: str) -> str | None:
    artifact = cell.artifacts.get(name)
    return artifact.digest if artifact else None
