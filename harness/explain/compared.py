"""Stored cells of consecutive versions and of repeats, compared pair by pair, and which differences are noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.artifacts.comparison import ArtifactComparison, compare_sources
from harness.explain.marks import above_noise, before_repeats
from harness.explain.training import Training, compare_training
from harness.store.cell import Cell
from harness.store.repeats import repeats_of
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.profiles import Profile


@dataclass(frozen=True)
class ComparedCells:
    """Two cells and what their comparison found.

    Attributes:
        a: the older, or the first run of two of one version.
        b: the newer, or the repeat.
        kind: `consecutive` or `repeat` (A against A: the noise floor).
        artifacts: one comparison per artifact, in the order of the pipeline; empty where a cell did not end well.
        repeats: either cell against repeats of it: what A against A shows is noise.
        training: the same step by step, of two trainings.
    """

    a: Cell
    b: Cell
    kind: str
    artifacts: tuple[ArtifactComparison, ...] = ()
    repeats: tuple[ComparedCells, ...] = ()
    training: Training | None = None

    @property
    def complete(self) -> bool:
        """Whether both cells have artifacts to compare."""
        return self.a.outcome == "ok" and self.b.outcome == "ok"

    def final(self) -> list[ArtifactComparison]:
        """Comparisons of the index's own tensors only."""
        return [artifact for artifact in self.artifacts if self.a.job_kind.is_final(artifact.name)]

    @property
    def first_changed(self) -> str | None:
        """The first tensor of the pipeline that is known to differ by a bit; of trainings, in the first step.

        Tensors only: the index's metadata names a folder of one run, and is never the same.
        """
        if self.training is not None and self.training.start is not None:
            return self.training.start.quantities[0].name
        differ = (one for one in self.artifacts if one.tensor and not one.bit_equal and not one.unknown)
        return next((one.name for one in differ), None)

    @cached_property
    def _earlier(self) -> bool:
        return before_repeats(self.artifacts, [one.artifacts for one in self.repeats], self.a.job_kind)

    def is_noise(self, one: ArtifactComparison) -> bool | None:
        """Whether an artifact differs, and no more than a repeat of either cell shows; None where it is unknown."""
        again = [row for repeat in self.repeats for row in repeat.artifacts if row.name == one.name]
        above = above_noise(one, again, earlier=self._earlier)
        return None if above is None else not above and not one.bit_equal


def compare_cells(store: Store, a: Cell, b: Cell, kind: str, profiles: Sequence[Profile]) -> ComparedCells:
    """Compare two cells of a store; a pair with a cell that did not end well has no artifacts."""
    pair = ComparedCells(a, b, kind)
    if not pair.complete:
        return pair
    sides = StoredCell(store, a), StoredCell(store, b)
    by_name = {artifact.name: artifact for artifact in compare_sources(*sides, profiles).artifacts}
    ordered = tuple(by_name[name] for name in a.job_kind.in_order(by_name))
    return ComparedCells(a, b, kind, ordered, training=compare_training(*sides))


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
        spec = replace(cells[0].spec, version=version, index=None, repeat=0)
        return Cell("", "", spec, "missing", reason="this version has no cell in the store")

    pairs = [
        compare_cells(store, first.get(a) or missing(a), first.get(b) or missing(b), "consecutive", profiles)
        for a, b in itertools.pairwise(versions)
    ]
    pairs += [
        compare_cells(store, cell, repeat, "repeat", profiles)
        for cell in first.values()
        for repeat in repeats_of(cell, cells)
    ]
    repeats: dict[str, list[ComparedCells]] = {}
    for pair in pairs:
        if pair.kind == "repeat" and pair.complete:
            repeats.setdefault(pair.a.key, []).append(pair)
    return [
        _with_repeats(pair, tuple(one for side in (pair.a, pair.b) for one in repeats.get(side.key, ())))
        for pair in pairs
    ]


def _with_repeats(pair: ComparedCells, repeats: tuple[ComparedCells, ...]) -> ComparedCells:
    steps = tuple(one.training for one in repeats if one.training is not None)
    training = pair.training and replace(pair.training, repeats=steps)
    return replace(pair, repeats=repeats, training=training)
