"""The headline table: what each pair of cells changed, and beyond what noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.explain.compared import ComparedCells

VersionPair = tuple[str, str]
"""The older version, and the newer."""


@dataclass(frozen=True)
class Headline:
    """One row of the headline table; counts are over the final tensors of the index.

    Attributes:
        a: label of the older cell.
        b: label of the newer cell.
        total: number of final tensors on either side.
        shapes: how many have the same shape.
        profiles: profile to how many pass.
        bit_equal: how many are bit for bit the same.
        noisy: final tensors that differ no more than a repeat of either cell shows; None where neither was run again.
        gap: outcome and reason where a cell is missing, else empty.
        must_reindex: whether the step wants a new index; empty where nobody searched.
    """

    a: str
    b: str
    total: int = 0
    shapes: int = 0
    profiles: Mapping[str, int] = field(default_factory=dict)
    bit_equal: int = 0
    noisy: tuple[str, ...] | None = None
    gap: str = ""
    must_reindex: str = ""

    @property
    def changed(self) -> bool:
        """Whether it was seen that anything final differs by a bit."""
        return not self.gap and self.bit_equal < self.total


def headline(pair: ComparedCells) -> Headline:
    """The headline row of a pair."""
    if not pair.complete:
        gaps = [f"{c.label}: {c.outcome}" for c in (pair.a, pair.b) if c.outcome != "ok"]
        return Headline(pair.a.label, pair.b.label, gap="; ".join(gaps))
    final = pair.final()
    unknown = [artifact.name for artifact in final if artifact.unknown]
    if unknown and all(artifact.bit_equal or artifact.unknown for artifact in final):
        return Headline(pair.a.label, pair.b.label, gap=f"{', '.join(unknown)} could not be read")
    names = dict.fromkeys(name for artifact in final for name in artifact.profiles)
    return Headline(
        a=pair.a.label,
        b=pair.b.label,
        total=len(final),
        shapes=sum(artifact.shape_a is not None and artifact.shape_a == artifact.shape_b for artifact in final),
        profiles={name: sum(bool(artifact.close(name)) for artifact in final) for name in names},
        bit_equal=sum(artifact.bit_equal for artifact in final),
        noisy=tuple(one.name for one in final if pair.is_noise(one)) if pair.repeats else None,
    )


COLUMNS = ("PyTorch A", "PyTorch B", "All shapes match", "Default", "bnb", "Bit-equal", "Outcome")


def headline_columns(axis: str | None = None) -> tuple[str, ...]:
    """The titles over `headline_cells`: the versions are those of torch, or of the package of an axis."""
    return tuple(one.replace("PyTorch", axis or "PyTorch") for one in COLUMNS)


def headline_cells(row: Headline, axis: str | None = None) -> tuple[str, ...]:
    """The cells of one headline row, with the reference article's columns first; on an axis, without its name."""
    a, b = (label.removeprefix(f"{axis}-") for label in (row.a, row.b))
    if row.gap:
        return (a, b, "-", "-", "-", "-", row.gap.replace(f"{axis}-", ""))

    def verdict(passed: int, yes: str, no: str) -> str:
        return f"{yes if passed == row.total else no} ({passed}/{row.total})"

    return (
        a,
        b,
        verdict(row.shapes, "Yes", "No"),
        verdict(row.profiles.get("default", 0), "True", "False"),
        verdict(row.profiles.get("bnb", 0), "True", "False"),
        verdict(row.bit_equal, "True", "False"),
        f"noise in {', '.join(row.noisy)}" if row.noisy else "ok",
    )
