"""The headline table: pairs of cells, what each of them changed, and beyond what noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.artifacts.comparison import ArtifactComparison, compare_sources
from harness.explain.marks import above_noise
from harness.store.cell import Cell
from harness.store.repeats import repeats_of
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.profiles import Profile

VersionPair = tuple[str, str]
"""The older version, and the newer."""


@dataclass(frozen=True)
class ComparedCells:
    """Two cells and what their comparison found.

    Attributes:
        a: the older, or the first run of two of one version.
        b: the newer, or the repeat.
        kind: `consecutive` or `repeat` (A against A: the noise floor).
        artifacts: one comparison per artifact, in the order of the pipeline; empty where a cell did not end well.
    """

    a: Cell
    b: Cell
    kind: str
    artifacts: tuple[ArtifactComparison, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether both cells have artifacts to compare."""
        return self.a.outcome == "ok" and self.b.outcome == "ok"

    def final(self) -> list[ArtifactComparison]:
        """Comparisons of the index's own tensors only."""
        return [artifact for artifact in self.artifacts if self.a.job_kind.is_final(artifact.name)]

    @property
    def first_changed(self) -> str | None:
        """The first tensor of the pipeline that is known to differ by a bit.

        Tensors only: the index's metadata names a folder of one run, and is never the same.
        """
        differ = (one for one in self.artifacts if one.tensor and not one.bit_equal and not one.unknown)
        return next((one.name for one in differ), None)


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


def compare_cells(store: Store, a: Cell, b: Cell, kind: str, profiles: Sequence[Profile]) -> ComparedCells:
    """Compare two cells of a store; a pair with a cell that did not end well has no artifacts."""
    pair = ComparedCells(a, b, kind)
    if not pair.complete:
        return pair
    found = compare_sources(StoredCell(store, a), StoredCell(store, b), profiles).artifacts
    by_name = {artifact.name: artifact for artifact in found}
    return ComparedCells(a, b, kind, tuple(by_name[name] for name in a.job_kind.in_order(by_name)))


def pairs_of(
    store: Store, cells: Sequence[Cell], versions: Sequence[str], profiles: Sequence[Profile]
) -> list[ComparedCells]:
    """Compare consecutive versions, and each repeat with its first run.

    Args:
        store: where the cells' tensors are.
        cells: one for each version, and repeats of these; see `harness.running.choice`.
        versions: all versions that the table is about, in order; a version without a cell is `missing`.
        profiles: tolerance profiles.

    Raises:
        ValueError: two cells are of one version, and nobody chose between them.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        if not cell.repeat and first.setdefault(cell.version, cell) is not cell:
            raise ValueError(f"{cell.key} and {first[cell.version].key} are both of {cell.version}")

    def missing(version: str) -> Cell:
        spec = replace(cells[0].spec, version=version, repeat=0)
        return Cell("", "", spec, "missing", "this version has no cell in the store")

    pairs = [
        compare_cells(store, first.get(a) or missing(a), first.get(b) or missing(b), "consecutive", profiles)
        for a, b in itertools.pairwise(versions)
    ]
    pairs += [
        compare_cells(store, cell, repeat, "repeat", profiles)
        for cell in first.values()
        for repeat in repeats_of(cell, cells)
    ]
    return pairs


def repeat_pairs(pairs: Iterable[ComparedCells]) -> dict[str, list[ComparedCells]]:
    """Key of each cell that was run again to it against its repeats: what A against A shows is noise."""
    repeats: dict[str, list[ComparedCells]] = {}
    for pair in pairs:
        if pair.kind == "repeat" and pair.complete:
            repeats.setdefault(pair.a.key, []).append(pair)
    return repeats


def is_noise(pair: ComparedCells, one: ArtifactComparison, noise: Mapping[str, Sequence[ComparedCells]]) -> bool | None:
    """Whether an artifact differs, and no more than a repeat of either cell shows; None where it is unknown.

    A repeat's own pair is what the noise is known from.
    """
    repeats = [repeat for side in (pair.a, pair.b) for repeat in noise.get(side.key, ())]
    rows = [row for repeat in repeats for row in repeat.artifacts if row.name == one.name]
    above = above_noise(one, rows)
    return None if above is None else not above and not one.bit_equal


def headline(pair: ComparedCells, noise: Mapping[str, Sequence[ComparedCells]]) -> Headline:
    """The headline row of a pair."""
    if not pair.complete:
        gaps = [f"{c.label}: {c.outcome}" for c in (pair.a, pair.b) if c.outcome != "ok"]
        return Headline(pair.a.label, pair.b.label, gap="; ".join(gaps))
    final = pair.final()
    unknown = [artifact.name for artifact in final if artifact.unknown]
    if unknown and all(artifact.bit_equal or artifact.unknown for artifact in final):
        return Headline(pair.a.label, pair.b.label, gap=f"{', '.join(unknown)} could not be read")
    profiles = {p: sum(bool(artifact.close(p)) for artifact in final) for p in _profile_names(final)}
    known = any(side.key in noise for side in (pair.a, pair.b))
    return Headline(
        a=pair.a.label,
        b=pair.b.label,
        total=len(final),
        shapes=sum(artifact.shape_a is not None and artifact.shape_a == artifact.shape_b for artifact in final),
        profiles=profiles,
        bit_equal=sum(artifact.bit_equal for artifact in final),
        noisy=tuple(one.name for one in final if is_noise(pair, one, noise)) if known else None,
    )


def _profile_names(artifacts: Sequence[ArtifactComparison]) -> list[str]:
    return list(dict.fromkeys(name for artifact in artifacts for name in artifact.profiles))


# ---- words

COLUMNS = ("PyTorch A", "PyTorch B", "All shapes match", "Default", "bnb", "Bit-equal", "Outcome")


def headline_cells(row: Headline) -> tuple[str, ...]:
    """The cells of one headline row, with the reference article's columns first."""
    if row.gap:
        return (row.a, row.b, "-", "-", "-", "-", row.gap)

    def verdict(passed: int, yes: str, no: str) -> str:
        return f"{yes if passed == row.total else no} ({passed}/{row.total})"

    outcome = "ok"
    if row.noisy:
        outcome = f"noise in {', '.join(row.noisy)}"
    return (
        row.a,
        row.b,
        verdict(row.shapes, "Yes", "No"),
        verdict(row.profiles.get("default", 0), "True", "False"),
        verdict(row.profiles.get("bnb", 0), "True", "False"),
        verdict(row.bit_equal, "True", "False"),
        outcome,
    )
