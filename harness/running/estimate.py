"""How long the cells of a plan will take and what they will need on the disk, as far as stored cells tell."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.running.plan import Planned
from harness.store.cell import LEVELS, Cell, Listed
from harness.store.spec import CellSpec
from harness.store.store import Store, level

_ENOUGH = 100
"""Cells whose median is taken: more of them tell no more, and each is read in full."""


@dataclass(frozen=True)
class Estimate:
    """What a plan's cells that would run need.

    Attributes:
        seconds: wall seconds of their jobs, one after the other; without building environments.
        bytes: of their tensors, if no two of them were equal (equal ones are stored once).
        cells: how many would run.
        by: how many stored cells it was estimated from.
        passages: how many passages those are of, from the fewest to the most.
    """

    seconds: float
    bytes: int
    cells: int
    by: int
    passages: tuple[int, int]


def estimate(store: Store, stored: Iterable[Listed], plan: Sequence[Planned], capture: str) -> Estimate | None:
    """Estimate from cells of the same kind of job on the same device that ended well; None where there are none.

    Time and size are taken to grow with the number of passages; of a search with that of its queries, and of a training
    with that of its steps. Those that are nearest in that count, and of the same checkpoint where there are any.
    """
    wanted = [planned.spec for planned in plan if planned.run]
    if not wanted:
        return None
    spec = wanted[0]
    like = [one for one in stored if one.outcome == "ok" and (one.spec.job, one.spec.device) == (spec.job, spec.device)]
    like = [one for one in like if _amount(one.spec)]
    like = [one for one in like if one.spec.checkpoint.digest == spec.checkpoint.digest] or like
    amount = _amount(spec)
    near = _nearest(store, like, lambda one: abs(_amount(one.spec) - amount))
    if not near:
        return None
    seconds = median(one.details["wall_seconds"] * amount / _amount(one.spec) for one in near)
    # How much is kept decides the size, far more than what it is of.
    wanted_level = LEVELS.index(capture)
    kept = _nearest(store, like, lambda one: (abs(level(one) - wanted_level), abs(_amount(one.spec) - amount)))
    size = median(_size(store, one) * amount / _amount(one.spec) for one in kept)
    passages = [one.spec.collection.passages for one in near]
    return Estimate(
        seconds * len(wanted), int(size) * len(wanted), len(wanted), len(near), (min(passages), max(passages))
    )


def _nearest(store: Store, cells: Iterable[Listed], how_far: Callable[[Listed], Any]) -> list[Cell]:
    """Of the cells whose time is known, those that are as near as the nearest; of very many, some from all of them."""
    far = sorted(cells, key=how_far)
    for _, group in itertools.groupby(far, how_far):
        alike = list(group)
        some = alike[:: -(-len(alike) // _ENOUGH)]
        found = [cell for one in some if (cell := store.get(one.key)) and cell.details.get("wall_seconds")]
        if found:
            return found
    return []


def _amount(spec: CellSpec) -> int:
    """What the time of a cell grows with."""
    if spec.job == "train":
        return int(spec.settings.get("maxsteps") or 0)
    return spec.queries.queries if spec.queries else spec.collection.passages


def _size(store: Store, cell: Cell) -> int:
    """Bytes of a cell's tensors in the store."""
    found = {}
    for artifact in cell.artifacts.values():
        with contextlib.suppress(OSError):
            found[artifact.digest] = store.object_path(artifact.digest).stat().st_size
    return sum(found.values())
