"""What the place of a difference in the pipeline, and repeats of the same cells, say about a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from harness.artifacts.comparison import ArtifactComparison, Comparison, compare_sources
from harness.artifacts.graph import Place, trace
from harness.artifacts.kind import JobKind
from harness.artifacts.source import ArtifactSource
from harness.artifacts.steps import begins_before
from harness.tensors.dtypes import DTYPES
from harness.tensors.profiles import DEFAULT
from harness.words import count

NOISE_FACTOR = 2
"""A difference is above the noise floor when it is more than this many times the greatest that a repeat shows.

Two differences of pure noise are seldom equal, so a factor of one would call every other of them real.
"""
_ROUNDED = 1 + 2**-4
"""What is exactly that many times as large is a little more or less once both are rounded to the tensor's dtype."""


def mark(comparison: Comparison, a: ArtifactSource, b: ArtifactSource) -> Comparison:
    """The comparison with `above_noise` and `place` of each artifact, and a sentence about the noise floor.

    Sources that are stored cells have a noise floor if a repeat of either is stored. Of index directories nothing is
    known but their own artifacts, so a place is relative to these.
    """
    stored = _cell(a) is not None and _cell(b) is not None
    counts, again = _repeats(a, b) if stored else ({}, [])
    earlier = before_repeats(comparison.artifacts, again, comparison.kind)
    seen: dict[str, list[ArtifactComparison]] = {}
    for row in (row for rows in again for row in rows):
        seen.setdefault(row.name, []).append(row)
    marked = [
        dataclasses.replace(one, above_noise=above_noise(one, seen.get(one.name, []), earlier=earlier))
        for one in comparison.artifacts
    ]
    # Where rows do not line up, a row that differs starts nothing: it is another token's.
    unplaced = {one.name for one in marked if not one.facts.get("rows_line_up", True)}
    # What was lost with the end of a run is no change, and nothing inherits from it.
    known = [one for one in marked if not comparison.cut_off(one)]
    places = {place.name: place for place in _trace(known, a, b, comparison.kind) if place.name not in unplaced}
    rows = tuple(dataclasses.replace(one, place=places.get(one.name)) for one in marked)
    notes = comparison.notes
    if stored:
        notes = (*notes, _note(comparison, counts, seen, _cell(a).version))
    return dataclasses.replace(comparison, artifacts=rows, notes=notes)


def _cell(source: ArtifactSource) -> Any:  # noqa: ANN401 - a stored cell's record, whose module starts slowly
    return getattr(source, "cell", None)


def _repeats(a: ArtifactSource, b: ArtifactSource) -> tuple[dict[str, int], list[tuple[ArtifactComparison, ...]]]:
    """How often each stored cell was run again, and its artifacts against those of each repeat."""
    from harness.store.store import Store
    from harness.store.stored import StoredCell

    counts: dict[str, int] = {}
    again = []
    for side in (a, b):
        store: Store = getattr(side, "store")  # noqa: B009 - what has a cell has a store
        for other in store.repeats(_cell(side)):
            if other.outcome == "ok":
                counts[side.name] = counts.get(side.name, 0) + 1
                again.append(compare_sources(side, StoredCell(store, other), [DEFAULT]).artifacts)
    return counts, again


def before_repeats(
    pair: Sequence[ArtifactComparison], repeats: Iterable[Sequence[ArtifactComparison]], kind: JobKind
) -> bool:
    """Whether two cells that go in steps begin to differ before any repeat does, in what both have recorded.

    Args:
        pair: artifacts of the two.
        repeats: the artifacts of either cell against those of a repeat of it, for each repeat.
        kind: of the cells; False where it does not go in steps.
    """

    def began(rows: Sequence[ArtifactComparison], among: frozenset[str]) -> dict[str, int]:
        return {row.name: row.facts["first_step"] for row in rows if "first_step" in row.facts and row.name in among}

    def known(rows: Sequence[ArtifactComparison]) -> frozenset[str]:
        return frozenset(row.name for row in rows if not row.unknown)

    both = [(known(pair) & known(rows), rows) for rows in repeats]
    return kind.stepwise and all(
        begins_before(began(pair, names), began(rows, names), kind.in_order(names)) for names, rows in both
    )


def above_noise(
    one: ArtifactComparison, repeats: Iterable[ArtifactComparison], *, earlier: bool = False
) -> bool | None:
    """Whether a difference is more than what repeats show, by one rule for `compare` and for tables.

    Args:
        one: an artifact of a pair.
        repeats: the same artifact of either cell and of a repeat of it, equal or not.
        earlier: whether the pair begins to differ before any repeat does; see `before_repeats`. Then an artifact that
            begins to is above noise, however little it differs: later steps may not be repeatable.

    Returns:
        None where it is not known that there is a difference, or what a repeat does.
    """
    known = [other for other in repeats if not other.unknown]
    if one.unknown or not one.tensor or not known:
        return None
    repeats = [other for other in known if not other.bit_equal]
    if one.bit_equal or not repeats:
        return not one.bit_equal
    began = one.facts.get("first_step")
    if earlier and began is not None and all(other.facts.get("first_step", began) > began for other in repeats):
        return True
    if one.metrics is None:
        # Only digests were kept, or shapes differ: a repeat that does the same shows as much.
        return all(other.status != one.status for other in repeats)
    measured = [other.metrics for other in repeats if other.metrics is not None]
    for name in ("n_mismatch", "specials_apart"):
        most = max((getattr(other, name) for other in measured), default=one.metrics.n)
        if getattr(one.metrics, name) > NOISE_FACTOR * most:
            return True
    # The number of a bucket or of a centroid says nothing about how far apart two of them are.
    floating = one.dtype_a is not None and DTYPES[one.dtype_a].kind == "float"
    greatest = max((other.max_abs for other in measured), default=0.0)
    return floating and one.metrics.max_abs > NOISE_FACTOR * _ROUNDED * greatest


def _trace(
    rows: Sequence[ArtifactComparison], a: ArtifactSource, b: ArtifactSource, kind: JobKind
) -> tuple[Place, ...]:
    left, right = {}, {}
    for one in rows:
        if one.tensor and not one.unknown:
            if one.status != "missing_a":
                left[one.name] = "a"
            if one.status != "missing_b":
                right[one.name] = "a" if one.bit_equal else "b"
    noise = [one.name for one in rows if one.above_noise is False and not one.bit_equal]
    swapped = {name for side in (a, b) if _cell(side) is not None for name in _cell(side).spec.swap}
    began = {one.name: one.facts["first_step"] for one in rows if "first_step" in one.facts}
    return trace(left, right, noise=noise, swapped=swapped, began=began, kind=kind)


def _note(
    comparison: Comparison, counts: dict[str, int], seen: dict[str, list[ArtifactComparison]], version: str
) -> str:
    if not counts:
        unknown = f"The noise floor is not known: no repeat of {comparison.a} or {comparison.b} is stored."
        return (
            f"{unknown} `harness {comparison.kind.name} {version} --repeat {version}` with the same options runs one."
        )
    runs = " and ".join(f"{name} was run {count(number, 'more time')}" for name, number in counts.items())
    tensors = [n for n, rows in seen.items() if any(r.tensor and not r.unknown and not r.bit_equal for r in rows)]
    changed = f"which changed {', '.join(comparison.kind.in_order(tensors))}" if tensors else "which changed no tensor"
    return f"Noise floor: {runs}, {changed}."
