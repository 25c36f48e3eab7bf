"""Where the difference of a pair starts, by what each artifact is computed from; see docs/localisation.md."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.artifacts.index_job import INDEX
from harness.artifacts.kind import JobKind


class Change(enum.Enum):
    """What one artifact's place in the pipeline says about its difference."""

    EQUAL = "equal"
    ORIGIN = "origin"
    INHERITED = "inherited"
    NOISE = "noise"
    SWAPPED = "swapped"


@dataclass(frozen=True)
class Place:
    """One artifact of a pair.

    Attributes:
        name: the artifact.
        step: what makes it.
        inputs: what it is computed from.
        change: equal, an origin, inherited, or noise: a repeat of A or of B changes it too.
        changed_inputs: those of its inputs that differ.
    """

    name: str
    step: str
    inputs: tuple[str, ...]
    change: Change
    changed_inputs: tuple[str, ...] = ()


def trace(
    a: Mapping[str, str],
    b: Mapping[str, str],
    *,
    noise: Iterable[str] = (),
    swapped: Iterable[str] = (),
    unknown: Iterable[str] = (),
    began: Mapping[str, int] | None = None,
    kind: JobKind = INDEX,
) -> tuple[Place, ...]:
    """Find where the difference of two cells starts.

    Args:
        a: artifact to digest.
        b: the same of the other cell; an artifact that only one side has differs.
        noise: artifacts that change when A or B is run again.
        swapped: artifacts that were put in their place from outside, so that nothing before them counts.
        unknown: artifacts that one of the cells made and could not record: they are left out, as if neither had them.
        began: of a kind that goes in steps, artifact to the first step in which it differs: what begins to differ later
            than another inherits from it, through what a step leaves to the next.
        kind: of the job that made them.

    Returns:
        All artifacts in the order of the pipeline.
    """
    names = kind.in_order({*a, *b}.difference(unknown))
    present = frozenset(names)
    differing = {name for name in names if a.get(name) != b.get(name)}
    noisy, given = set(noise), set(swapped)
    first = {name: (began or {}).get(name, math.inf) for name in differing}
    earliest = min((first[name] for name in differing - noisy), default=math.inf)
    places = []
    for name in names:
        inputs = () if name in given else kind.inputs_of(name, present)
        changed = tuple(other for other in inputs if other in differing and first[other] <= first.get(name, math.inf))
        if name in given and name not in differing:
            change = Change.SWAPPED
        elif name not in differing:
            change = Change.EQUAL
        elif name in noisy:
            change = Change.NOISE
        else:
            change = Change.INHERITED if changed or first[name] > earliest else Change.ORIGIN
        known = kind.known(name)  # what nobody declared is its own step
        places.append(Place(name, known.step if known else name, inputs, change, changed))
    return tuple(places)


def origins(places: Iterable[Place], *, inherited: bool = False) -> dict[str, tuple[str, ...]]:
    """Step to the artifacts of it that differ by themselves, in the order of the pipeline; with `inherited`, all."""
    found: dict[str, list[str]] = {}
    for place in places:
        if place.change is Change.ORIGIN or (inherited and place.change is Change.INHERITED):
            found.setdefault(place.step, []).append(place.name)
    return {step: tuple(names) for step, names in found.items()}


def main_input(place: Place, inside: set[str]) -> str | None:
    """The input below which an artifact is drawn in a tree: one that differs if there is one, else the last made."""
    candidates = [name for name in place.changed_inputs if name in inside] or [n for n in place.inputs if n in inside]
    return candidates[-1] if candidates else None
