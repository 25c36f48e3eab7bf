"""Runs of one cell again, and what they change: the noise floor, by one rule for all who ask.

A repeat says something about its own cell and about no other, so two cells are runs of the same thing only where their
specifications differ in the number of the repeat alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.store.cell import Cell


def repeats_of(cell: Cell, cells: Iterable[Cell]) -> list[Cell]:
    """Those of `cells` that are other runs of exactly this one, however they ended."""
    own = cell.spec.again(0)
    return [one for one in cells if one.key != cell.key and one.spec.again(0) == own]


def noise_floor(cell: Cell, repeats: Iterable[Cell]) -> frozenset[str] | None:
    """Artifacts whose digests differ between a cell and any of its repeats, and that both could record.

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
        for name in {*cell.artifacts, *other.artifacts}.difference(cell.not_captured, other.not_captured)
        if _digest(cell, name) != _digest(other, name)
    )


def _digest(cell: Cell, name: str) -> str | None:
    artifact = cell.artifacts.get(name)
    return artifact.digest if artifact else None
