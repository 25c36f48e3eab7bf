"""The cells of a plan: which run, which are skipped and why, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from harness.store.cell import Cell
from harness.store.spec import CellSpec
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


def stopped_early(plan: Sequence[Planned], cells: Sequence[Cell]) -> str:
    """A sentence where cells of a plan did not run, because the user stopped the sweep; empty where all have ended."""
    left = len(plan) - len(cells)
    if not left:
        return ""
    return (
        f"Stopped: {left} of {count(len(plan), 'cell')} did not run; the same command goes on where this one stopped."
    )


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
