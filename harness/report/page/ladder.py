"""The ladder: what became of each artifact at each step, in five states that no reader can mix up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.headline import VersionPair
from harness.report.page.folder import Folder, Row

EQUAL, CLOSE, CHANGED, NOISE, UNKNOWN = "equal", "close", "changed", "noise", "unknown"
MEANING = {
    EQUAL: "bit for bit the same",
    CLOSE: "differs, within the profile default",
    CHANGED: "differs beyond the profile default",
    NOISE: "differs no more than a repeat of the same cell does",
    UNKNOWN: "not compared, or could not be read",
}
"""The states, and what they say. `unknown` is never shown as equal."""
_WORST_FIRST = (CHANGED, CLOSE, UNKNOWN, NOISE, EQUAL)


@dataclass(frozen=True)
class Strip:
    """One artifact over all steps.

    Attributes:
        artifact: its name.
        final: whether it is one of the index's own tensors.
        states: one for each step.
    """

    artifact: str
    final: bool
    states: tuple[str, ...]

    @property
    def moved(self) -> bool:
        """Whether it is known to be anything but equal in a step that was compared."""
        return any(state in (CHANGED, CLOSE, NOISE) for state in self.states)


@dataclass(frozen=True)
class Ladder:
    """All artifacts of a folder over its steps, in the order of the pipeline."""

    steps: Sequence[VersionPair]
    strips: Sequence[Strip]

    @property
    def moved(self) -> list[Strip]:
        """Artifacts that differ in a step."""
        return [strip for strip in self.strips if strip.moved]

    @property
    def still(self) -> list[Strip]:
        """Artifacts of which no step is known to change anything."""
        return [strip for strip in self.strips if not strip.moved]

    @property
    def together(self) -> tuple[str, ...]:
        """The state of all artifacts that never move, as one strip: unknown where any of them is."""
        return tuple(worst(states) for states in zip(*(strip.states for strip in self.still), strict=True))


def state_of(row: Row | None) -> str:
    """The state of an artifact, by its row of `comparisons`; without a row, nobody knows."""
    if row is None or row["bit_equal"] is None or row["status"] == "unreadable":
        return UNKNOWN
    if row["bit_equal"]:
        return EQUAL
    if row["noise"]:
        return NOISE
    return CLOSE if row["status"] in ("value_equal", "close") else CHANGED


def worst(states: Sequence[str]) -> str:
    """The state that a reader must hear of first."""
    return min(states, key=_WORST_FIRST.index, default=UNKNOWN)


def ladder_of(folder: Folder) -> Ladder:
    """The ladder of a folder; without `comparisons`, one without artifacts."""
    found = [folder.compared(step) for step in folder.steps]
    # A step may have been recorded in less detail than others: the one that knows most gives the pipeline's order.
    names = dict.fromkeys(name for rows in sorted(found, key=len, reverse=True) for name in rows)
    final = {name for rows in found for name, row in rows.items() if row["final"]}
    return Ladder(
        folder.steps, [Strip(name, name in final, tuple(state_of(rows.get(name)) for rows in found)) for name in names]
    )


def state_of_step(row: Row) -> str:
    """The state of a whole step, by its row of `consecutive`."""
    if row["gap"] or row["total"] is None or row["bit_equal"] is None:
        return UNKNOWN
    differ = row["total"] - row["bit_equal"]
    if differ <= 0:
        return EQUAL
    if len(row["noisy"] or ()) >= differ:
        return NOISE
    return CLOSE if row["default_match"] == row["total"] else CHANGED
