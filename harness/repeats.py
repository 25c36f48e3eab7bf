"""Runs of one cell again, and what they change: the noise floor, by one rule for all who ask.

A repeat says something about its own cell and about no other, so two cells are runs of the same thing only where their
specifications differ in the number of the repeat alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.store import Cell


def repeats_of(cell: Cell, cells: Iterable[Cell]) -> list[Cell]:
    """Those of `cells` that are other runs of exactly this one, however they ended."""
    own = {**cell.spec, "repeat": 0}
    return [one for one in cells if one.key != cell.key and {**one.spec, "repeat": 0} == own]


def noise_floor(cell: Cell, repeats: Iterable[Cell]) -> frozenset[str] | None:
    """Artifacts whose digests differ between a cell and any of its repeats.

    Args:
        cell: that ended well.
        repeats: from `repeats_of`; those that did not end well say nothing.

    Returns:
        None where no repeat ended well: the noise floor is not known then, which is not the same as none.
    """
    own = {name: one.digest for name, one in cell.artifacts.items()}
    good = [repeat for repeat in repeats if repeat.outcome == "ok"]
    others = [{name: one.digest for name, one in repeat.artifacts.items()} for repeat in good]
    if not others:
        return None
    return frozenset(name for other in others for name in {*own, *other} if own.get(name) != other.get(name))
