"""The cells of a plan: which run, which are skipped and why, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from harness.running.experiment import Experiment
from harness.store.cell import LEVELS, Cell
from harness.store.spec import CellSpec
from harness.store.store import level
from harness.words import count


@dataclass(frozen=True)
class Planned:
    """One cell of a plan.

    Attributes:
        spec: the cell.
        stored: the cell as it is in the store, if it is.
        run: whether a sweep would run it now.
        why: one phrase for the user.
    """

    spec: CellSpec
    stored: Cell | None
    run: bool
    why: str


def plan_cells(
    experiment: Experiment, versions: Sequence[str], repeats: Mapping[str, int], *, retry: bool = True
) -> list[Planned]:
    """Cells of `versions`, each with its repeats, and whether each would run.

    Args:
        experiment: collection, checkpoint, device and settings.
        versions: in the order in which they run.
        repeats: version to the number of extra runs (A against A).
        retry: run cells again that ended badly; `unsupported` is a finding and is never retried.
    """
    known: dict[str, bool] = {}
    for version in versions:
        # So that a version without a lock is named before anything is fetched. One of the user's own may take long to
        # build, so the files are looked at before it.
        if experiment.matrix.has(version):
            experiment.lock(version)
    experiment.check()
    return [
        _planned(experiment, experiment.spec(version, repeat), known, retry=retry)
        for version in versions
        for repeat in range(repeats.get(version, 0) + 1)
    ]


def run_needed(
    experiment: Experiment, versions: Sequence[str], run: Callable[[Experiment, list[Planned]], list[Cell]]
) -> tuple[list[str], list[Cell]]:
    """Run the cells without which those of `versions` cannot be planned, where there are any.

    Args:
        experiment: whose cells need others, such as the indexes that a search is in.
        versions: in the order in which they run.
        run: runs a plan of another experiment.

    Returns:
        The versions that can be planned, and cells that ended badly, for which some cannot.
    """
    experiment.check()
    needed = [wanted for version in versions if (wanted := experiment.needs(version))]
    missing = [wanted for wanted in dict.fromkeys(needed) if experiment.index.stored(wanted) is None]
    if missing:
        experiment.index.require_room()
    cells = run(experiment.index, plan_cells(experiment.index, missing, {})) if missing else []
    there = {wanted for wanted in needed if experiment.index.stored(wanted) is not None}
    ready = [version for version in versions if experiment.needs(version) in {None, *there}]
    return ready, [cell for cell in cells if cell.outcome != "ok"]


def _planned(experiment: Experiment, spec: CellSpec, known: dict[str, bool], *, retry: bool) -> Planned:
    cell, wanted = experiment.store.get(spec.key), experiment.job.capture
    if cell is None:
        return Planned(spec, None, run=True, why="not in the store")
    if cell.outcome == "unsupported":
        return Planned(spec, cell, run=False, why=f"unsupported: {cell.reason}")
    if cell.outcome != "ok":
        return Planned(spec, cell, run=retry, why=f"ended as {cell.outcome}: {cell.reason}")
    if level(cell) < LEVELS.index(wanted):
        return Planned(spec, cell, run=True, why=f"stored with capture {cell.capture}, {wanted} wanted")
    lost = experiment.store.missing(cell, known)
    if lost:
        return Planned(spec, cell, run=True, why=f"stored, but its tensors are not: {', '.join(lost[:3])}")
    return Planned(spec, cell, run=False, why="stored")


def stopped_early(plan: Sequence[Planned], cells: Sequence[Cell]) -> str:
    """A sentence where cells of a plan did not run, because the user stopped the sweep; empty where all have ended."""
    left, of = len(plan) - len(cells), count(len(plan), "cell")
    return f"Stopped: {left} of {of} did not run; the same command goes on where this one stopped." if left else ""


def run_older(plan: Sequence[Planned], hours: float, now: datetime | None = None) -> list[Planned]:
    """Let cells run again that ended well longer than so many hours ago; a sweep that was interrupted goes on.

    A cell whose time cannot be read counts as old. What is `unsupported` stays so.
    """
    limit = (now or datetime.now(UTC)) - timedelta(hours=hours)
    return [
        replace(one, run=True, why=f"finished more than {hours:g} hours ago")
        if one.stored is not None and one.stored.outcome == "ok" and _finished(one.stored.finished) < limit
        else one
        for one in plan
    ]


def _finished(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
