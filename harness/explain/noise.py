"""Where noise comes from: runs of one cell that differ, followed to the step and to the call that is not repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.graph import origins
from harness.explain.pair import Pair, Side
from harness.explain.places import places_of
from harness.explain.replay import CallVerdict, run_steps, unstable_calls
from harness.explain.requests import requests_for
from harness.explain.stepwise import parting
from harness.store.cell import Cell
from harness.store.repeats import noise_floor


@dataclass(frozen=True)
class Noise:
    """What changes when one cell is run again.

    Attributes:
        label: of the cell.
        artifacts: those that change.
        sources: step of origin to the calls that change although they get the same input; empty where none was found,
            or where the step cannot be run by itself.
    """

    label: str
    artifacts: tuple[str, ...]
    sources: dict[str, tuple[CallVerdict, ...]]


def noise_of(pair: Pair, side: Side, again: Sequence[Cell], folder: Path) -> Noise | None:
    """Find what makes one side's runs differ: the calls of the step of origin are recorded once and repeated twice.

    Args:
        pair: that `side` belongs to.
        side: whose first run it is.
        again: its other runs.
        folder: scratch space.

    Returns:
        None where all runs are equal.
    """
    if not (changing := noise_floor(side.cell, again)):
        return None
    other = replace(side, cell=next(cell for cell in again if noise_floor(side.cell, [cell])))
    runs_of_one = replace(pair, a=side, b=other, noise=frozenset(), again_a=(), again_b=())
    parted = parting(runs_of_one)
    places = places_of(runs_of_one, parted)
    differing = origins(places)
    sources: dict[str, tuple[CallVerdict, ...]] = dict.fromkeys(differing, ())
    asked, _why = requests_for(runs_of_one, differing, folder / "inputs", parted.step if parted else None)
    runs = run_steps(pair.bench, side, side, [one.request for one in asked], folder)
    for one, run in zip(asked, runs, strict=True):
        repeated = [job.out for job in (run.again, run.in_b) if job is not None and job.ok]
        if run.recorded.ok and repeated:
            found = unstable_calls(run.recorded.out, *repeated)
            for step in one.outputs:
                sources[step] = tuple(one.among(step, found))
    return Noise(side.cell.label, tuple(one.name for one in places if one.name in changing), sources)
