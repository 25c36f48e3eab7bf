"""What is not repeatable on a machine, as `harness doctor` says it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.artifacts.graph import Change, origins
from harness.environments.doctor import Check
from harness.explain.locate import Location
from harness.explain.repeatability import Repeatability, Repeats
from harness.explain.replay import CallVerdict
from harness.report.location_text import noisy_calls
from harness.words import count


def repeatability_checks(found: Repeatability) -> Iterator[Check]:
    """One check for each thread count, and one for each two neighbouring ones."""
    yield from (repeats_check(one, found.runs) for one in found.runs)
    yield from (_threads_check(*between) for between in found.between)


def repeats_check(one: Repeats, all_counts: Sequence[Repeats]) -> Check:
    """The verdict on the runs with one number of threads, in the light of those with the others."""
    runs = f"{len(one.cells)} runs with {_threads(one.threads)}"
    if one.noise is None:
        return Check("repeats", "ok", f"{runs}: all {len(one.cells[0].artifacts)} artifacts are bit for bit equal.")
    starts = "; ".join(noisy_calls(step, verdicts) for step, verdicts in one.noise.sources.items())
    steady = [other.threads for other in all_counts if not other.changing]
    why = (
        f"With {' and '.join(map(_threads, steady))} nothing changes, so what changes it is the work of several threads"
        if steady and min(steady) < one.threads
        else "It is no matter of threads"
        if all(other.changing for other in all_counts)
        else "Why is not known"
    )
    return Check(
        "repeats", "problem",
        f"{runs}: {len(one.changing)} of {len(one.cells[0].artifacts)} artifacts change from run to run, first in "
        f"{starts}. {why}; a difference between versions in these artifacts may be noise: use --repeats.",
    )  # fmt: skip


def _threads_check(a: Repeats, b: Repeats, found: Location | None) -> Check:
    counts = f"{_threads(a.threads)} against {b.threads}"
    if found is None:
        return Check("threads", "ok", f"{counts}: all {len(a.cells[0].artifacts)} artifacts are bit for bit equal.")
    differing = [p.name for p in found.places if p.change in {Change.ORIGIN, Change.INHERITED}]
    if not differing:
        return Check("threads", "warning", f"{counts}: nothing differs but what changes from run to run anyway.")
    calls: dict[str, list[CallVerdict]] = {step: [] for step in origins(found.places)}
    for step, verdict in found.origins:
        calls.setdefault(step, []).append(verdict)
    starts = "; ".join(noisy_calls(step, verdicts) for step, verdicts in calls.items())
    return Check(
        "threads", "warning",
        f"{counts}: {len(differing)} of {len(found.places)} artifacts depend on the number of threads, first in "
        f"{starts}. The number is part of a cell's key, so only cells of one number are compared.",
    )  # fmt: skip


def _threads(number: int) -> str:
    return count(number, "thread")
