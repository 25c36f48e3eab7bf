"""Where noise comes from: runs of one cell that differ, followed to the step and to the call that is not repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.graph import origins, trace
from harness.explain.pair import Pair, Side
from harness.explain.replay import CallVerdict, run_steps, unstable_calls
from harness.store.cell import Cell
from harness.store.repeats import noise_floor, unrecorded


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
    from harness.explain.requests import step_request

    changing = noise_floor(side.cell, again)
    if not changing:
        return None
    other = replace(side, cell=next(cell for cell in again if noise_floor(side.cell, [cell])))
    runs_of_one = replace(pair, a=side, b=other)
    unknown = unrecorded(side.cell, other.cell)
    places = trace(side.digests(), other.digests(), unknown=unknown, kind=side.cell.job_kind)
    sources: dict[str, tuple[CallVerdict, ...]] = dict.fromkeys(origins(places), ())
    requests = {}
    for step, artifacts in origins(places).items():
        try:
            requests[step], _outputs = step_request(runs_of_one, step, artifacts, folder / "batch")
        except LookupError:
            continue
    runs = run_steps(pair.bench, side, side, list(requests.values()), folder)
    for step, run in zip(requests, runs, strict=True):
        repeated = [job.out for job in (run.again, run.in_b) if job is not None and job.ok]
        if run.recorded.ok and repeated:
            sources[step] = tuple(unstable_calls(run.recorded.out, *repeated))
    return Noise(side.cell.label, tuple(one.name for one in places if one.name in changing), sources)
