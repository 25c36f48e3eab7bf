"""What each artifact of the index job is computed from, and by which step; for a pair, where a difference starts.

The first artifact that differs while everything it was computed from is equal is an origin; whatever differs further on
is inherited, until it is shown otherwise by a swap.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.artifacts.index_job import RULES
from harness.artifacts.names import in_order, pattern


def step_of(name: str) -> str:
    """The step that makes an artifact; an artifact that this graph does not know is its own step."""
    known = RULES.get(pattern(name)[0])
    return known.step if known else name


def inputs_of(name: str, present: Iterable[str]) -> tuple[str, ...]:
    """The artifacts that `name` is computed from, among those that are present.

    An input that was not captured is replaced by its own inputs, so that a cell with final artifacts only still has a
    graph. Chunks are those that are present.
    """
    present = set(present)
    found: dict[str, None] = {}
    seen: set[str] = set()

    def visit(of: str) -> None:
        generic, chunk = pattern(of)
        for wanted in RULES[generic].inputs if generic in RULES else ():
            for name_ in _expand(wanted, chunk, present):
                if name_ in present:
                    found[name_] = None
                elif name_ not in seen:
                    seen.add(name_)
                    visit(name_)

    visit(name)
    return tuple(in_order(found))


def _expand(wanted: str, chunk: str | None, present: set[str]) -> list[str]:
    if "*" not in wanted:
        return [wanted]
    if chunk is not None:
        return [wanted.replace("*", chunk)]
    numbers = sorted({number for _generic, number in map(pattern, present) if number is not None}, key=int)
    return [wanted.replace("*", number) for number in numbers]


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
) -> tuple[Place, ...]:
    """Find where the difference of two cells starts.

    Args:
        a: artifact to digest.
        b: the same of the other cell; an artifact that only one side has differs.
        noise: artifacts that change when A or B is run again.
        swapped: artifacts that were put in their place from outside, so that nothing before them counts.
        unknown: artifacts that one of the cells made and could not record: they are left out, as if neither had them.

    Returns:
        All artifacts in the order of the pipeline.
    """
    names = in_order({*a, *b}.difference(unknown))
    differing = {name for name in names if a.get(name) != b.get(name)}
    noisy, given = set(noise), set(swapped)
    places = []
    for name in names:
        inputs = () if name in given else inputs_of(name, names)
        changed = tuple(other for other in inputs if other in differing)
        if name in given and name not in differing:
            change = Change.SWAPPED
        elif name not in differing:
            change = Change.EQUAL
        elif name in noisy:
            change = Change.NOISE
        else:
            change = Change.INHERITED if changed else Change.ORIGIN
        places.append(Place(name, step_of(name), inputs, change, changed))
    return tuple(places)


def origins(places: Iterable[Place]) -> dict[str, tuple[str, ...]]:
    """Step to the artifacts that it is the origin of, in the order of the pipeline."""
    found: dict[str, list[str]] = {}
    for place in places:
        if place.change is Change.ORIGIN:
            found.setdefault(place.step, []).append(place.name)
    return {step: tuple(names) for step, names in found.items()}


def main_input(place: Place, inside: set[str]) -> str | None:
    """The input below which an artifact is drawn in a tree: one that differs if there is one, else the last made."""
    candidates = [name for name in place.changed_inputs if name in inside] or [n for n in place.inputs if n in inside]
    return candidates[-1] if candidates else None
