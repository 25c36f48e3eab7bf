"""Many indexes in order, by digests: which are equal to which, per artifact, and what changed at each step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, count, islice, pairwise
from typing import Any

from harness.artifacts.index_job import INDEX
from harness.artifacts.kind import JobKind
from harness.artifacts.kinds import kind_of, other_formula
from harness.artifacts.metadata import identity
from harness.artifacts.remembered import Remembered
from harness.artifacts.source import ArtifactSource, metadata_problem, unrecorded
from harness.errors import ExitCode, UnreadableTensor
from harness.tensors.threads import in_threads

_FILES = 2  # that are looked at at a time
_AHEAD = 8  # that the disk is asked for before they are looked at: it has something to do at all times
Item = tuple[str, Mapping[str, str]]
"""A name, and a digest per artifact."""


@dataclass(frozen=True)
class Step:
    """Two neighbours; `changed` lists the tensors whose digests differ or that only one of them has.

    What could not be read in the first of them is held against what was last read before it; what could not be read in
    the second is not known to have changed.
    """

    a: str
    b: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactChange:
    """A step at which one artifact changed; `back_to` is the first item whose value it returned to, if it did."""

    artifact: str
    a: str
    b: str
    back_to: str | None


@dataclass(frozen=True)
class Ladder:
    """Items in order, the classes of equal items per artifact (in order of first appearance), and the steps.

    `noise` has the items that were run again, and the tensors that this changed; `incomplete` the items that lack a
    part of a whole index, and the parts; `empty` those of which no tensor was read. Values (`JobKind.values`) have
    classes, but a step does not list them as changed.
    """

    items: tuple[str, ...]
    classes: Mapping[str, tuple[tuple[str, ...], ...]]
    steps: tuple[Step, ...]
    changes: tuple[ArtifactChange, ...]
    unreadable: tuple[str, ...] = ()
    noise: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    incomplete: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    kind: JobKind = INDEX

    @property
    def values(self) -> tuple[str, ...]:
        """What is no tensor and differs all the same, such as document lengths: a step does not count it."""
        named = self.kind.values & self.classes.keys() - {"metadata"}
        return tuple(self.kind.in_order(name for name in named if len(self.classes[name]) > 1))

    @property
    def outcome(self) -> ExitCode:
        """What is not read, or not there, is never said to be equal; a change is one whatever is missing."""
        if self.unreadable or self.empty:
            return ExitCode.USAGE
        differ = self.changed or self.values
        return ExitCode.DIVERGENCE if differ else ExitCode.USAGE if self.incomplete else ExitCode.OK

    @property
    def changed(self) -> bool:
        """Whether any step changed any tensor that running its items again does not."""
        return any(self.beyond_noise(step) for step in self.steps)

    def beyond_noise(self, step: Step | ItemPair) -> tuple[str, ...]:
        """What differs between two items and is not noise of either."""
        noise = {*self.noise.get(step.a, ()), *self.noise.get(step.b, ())}
        return tuple(name for name in step.changed if name not in noise)

    def to_json(self) -> dict[str, Any]:
        """The contract's object."""
        return {
            "items": list(self.items),
            "classes": {name: [list(group) for group in groups] for name, groups in self.classes.items()},
            "steps": [vars(step) | {"changed": list(step.changed)} for step in self.steps],
            "changes": [vars(change) for change in self.changes],
            "unreadable": list(self.unreadable),
            "noise": {item: list(names) for item, names in self.noise.items()},
            "incomplete": {item: list(names) for item, names in self.incomplete.items()},
        }


def ladder(
    items: Sequence[Item],
    unreadable: Sequence[str] = (),
    noise: Mapping[str, tuple[str, ...]] | None = None,
    incomplete: Mapping[str, tuple[str, ...]] | None = None,
    unrecorded: Mapping[str, Collection[str]] | None = None,
    kind: JobKind = INDEX,
) -> Ladder:
    """Put items in classes and list what changed from each to the next.

    Args:
        items: in order, names unique.
        unreadable: sentences about artifacts that could not be read; they have digests of their own (`all_digests`),
            so that they are equal to nothing, and count as no change.
        noise: item to the tensors that running it again changed; only items that were run again.
        incomplete: item to what it lacks of a whole index; only items that lack something.
        unrecorded: item to artifacts that its job made and of which it says nothing, which is no change.
        kind: of the job that made the items.
    """
    names = kind.in_order({name for _, digests in items for name in digests})
    classes = {}
    changes = []
    for name in names:
        groups: dict[str, list[str]] = {}
        for item, digests in items:
            if name in digests:
                groups.setdefault(digests[name], []).append(item)
        classes[name] = tuple(tuple(group) for group in groups.values())
        seen = [(item, digests[name]) for item, digests in items if name in digests and _was_read(digests[name])]
        for place, ((before, old), (after, new)) in enumerate(pairwise(seen), 1):
            if old != new:
                back = next((item for item, digest in seen[:place] if digest == new), None)
                changes.append(ArtifactChange(name, before, after, back))
    steps = []
    last: dict[str, str | None] = {}
    for place, (item, digests) in enumerate(items):
        known = [name for name in names if name not in (unrecorded or {}).get(item, ())]
        now = {name: digests.get(name) for name in known if _was_read(digests.get(name))}
        changed = tuple(name for name in now if name not in kind.values and name in last and last[name] != now[name])
        if place:
            steps.append(Step(items[place - 1][0], item, changed))
        last |= now
    order = tuple(item for item, _ in items)
    empty = tuple(item for item, one in items if not any(_was_read(one[name]) for name in one.keys() - kind.values))
    return Ladder(
        order, classes, tuple(steps), tuple(changes), tuple(unreadable), noise or {}, incomplete or {}, empty, kind
    )


@dataclass(frozen=True)
class ItemPair:
    """One of all pairs: how many tensors both have, how many of these are equal, and which are not."""

    a: str
    b: str
    shared: int
    changed: tuple[str, ...]


def all_pairs(items: Sequence[Item], kind: JobKind = INDEX) -> list[ItemPair]:
    """Every pair of items, by digest alone: 171 for 19 versions."""
    order = kind.in_order({name for _, digests in items for name in digests} - kind.values)
    pairs = []
    for (a, left), (b, right) in combinations(items, 2):
        changed = tuple(name for name in order if left.get(name) != right.get(name))
        pairs.append(ItemPair(a, b, len((left.keys() & right.keys()) - kind.values), changed))
    return pairs


_asked = count()
_UNREAD = "unreadable:"


def _was_read(digest: str | None) -> bool:
    return digest is None or not digest.startswith(_UNREAD)


def all_digests(
    sources: Sequence[ArtifactSource], remembered: Remembered | None = None
) -> list[tuple[dict[str, str], list[str]]]:
    """Of each source a digest for each artifact, and sentences about those that could not be read.

    Stored cells know their digests; a directory's tensors are hashed, mapped, unless they are `remembered`. What
    differs is held against its file's own checksum at once, while the file is in memory. An unreadable artifact, such
    as a damaged one, gets a digest that nothing else has, and counts as no change.
    """
    remembered = remembered or Remembered()
    digests: list[dict[str, str]] = [{} for _ in sources]
    problems: list[list[str]] = [[] for _ in sources]

    def ask(place: int, name: str, question: Callable[[ArtifactSource, str], str | None]) -> None:
        try:
            answer = question(sources[place], name)
        except UnreadableTensor as error:
            digests[place][name] = f"{_UNREAD}{next(_asked)}"  # two sources may have the same name
            problems[place].append(str(error))
        else:
            digests[place][name] = answer or digests[place][name]

    def ask_each(places: list[int], name: str, question: Callable[[ArtifactSource, str], str | None]) -> None:
        for _ in in_threads(lambda place: ask(place, name, question), places, _FILES):
            pass

    names = kind_of(next(iter(sources), None)).in_order({name for source in sources for name in source.names()})
    digest = _ahead_of([(source, name) for name in names for source in sources if name in source.names()], remembered)
    for name in names:
        having = [place for place, source in enumerate(sources) if name in source.names()]
        ask_each(having, name, digest)
        read = [place for place in having if _was_read(digests[place][name])]
        if len({digests[place][name] for place in read}) > 1:
            ask_each(read, name, remembered.verify)
    remembered.save()
    for place, source in enumerate(sources):
        problem, metadata = metadata_problem(source), source.metadata()
        if problem:
            digests[place]["metadata"] = f"{_UNREAD}{next(_asked)}"
            problems[place].append(problem)
        elif metadata:
            text = json.dumps(identity(metadata), sort_keys=True, default=str)
            digests[place]["metadata"] = hashlib.sha256(text.encode()).hexdigest()
    # A file that holds two tensors is told once.
    found = [(known, list(dict.fromkeys(told))) for known, told in zip(digests, problems, strict=True)]
    _keep_apart(sources, found)
    return found


def _ahead_of(
    coming: Sequence[tuple[ArtifactSource, str]], remembered: Remembered
) -> Callable[[ArtifactSource, str], str]:
    """What gives the digest of an artifact, while the disk reads those that come after it."""
    left = iter(coming)

    def fetch(some: int) -> None:
        for source, name in islice(left, some):
            remembered.fetch(source, name)

    def digest(source: ArtifactSource, name: str) -> str:
        fetch(1)
        return remembered.digest(source, name)

    fetch(_AHEAD)
    return digest


def _keep_apart(sources: Sequence[ArtifactSource], found: Sequence[tuple[dict[str, str], list[str]]]) -> None:
    """Make digests of another formula than that of the first source that has them such that none is a change.

    Among themselves they are equal or not.
    """
    kind = kind_of(next(iter(sources), None))
    for name in kind.in_order({name for digests, _ in found for name in digests}):
        first, *others = [one for one in zip(sources, found, strict=True) if name in one[1][0]]
        for source, (digests, problems) in others:
            if _was_read(digests[name]) and (why := other_formula(first[0], source, name)):
                digests[name] = f"{_UNREAD}{why}:{digests[name]}"
                problems.append(f"{name} of {source.name} cannot be compared with that of {first[0].name}: {why}.")


def unrecorded_of(sources: Mapping[str, ArtifactSource]) -> dict[str, set[str]]:
    """Item to what others have and of which it says nothing; see `ladder`."""
    names = {name for source in sources.values() for name in source.names()}
    return {item: {name for name in names if unrecorded(source, name)} for item, source in sources.items()}
