"""The training step in which two trainings begin to differ, to be run by itself from the state that A had there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.kind import JobKind
from harness.artifacts.steps import begins_before, differing
from harness.errors import UnreadableTensor
from harness.explain.pair import Pair
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.dtypes import Array
from harness.tensors.tensor import Tensor

RANDOM = "random_*"
"""The artifact that is put in place as a step begins; others are what a part of the step has made."""
_STATE = "state"
"""The folder in which the job leaves the state of a step."""


@dataclass(frozen=True)
class Steps:
    """In which steps the artifacts of two cells begin to differ.

    Attributes:
        began: artifact to the first step, from 0, in which it differs.
        unread: artifact that differs, but nobody knows in which step, to the reason.
    """

    began: Mapping[str, int]
    unread: Mapping[str, str]


def beginnings(store: Store, a: Cell, b: Cell, since: int = 0) -> Steps:
    """The first row, which is a step, in which artifacts of two cells differ in any bit; only of those that have rows.

    Steps before `since` are not looked at. A training that ends earlier differs from the step on that it does not have.
    """
    began, unread = {}, {}
    for name in (made.name for made in a.job_kind.by_step):
        one, other = a.artifacts.get(name), b.artifacts.get(name)
        if one is None or other is None or one.digest == other.digest:
            continue
        try:
            step = _first(store.load(one), store.load(other), since)
        except UnreadableTensor as error:
            unread[name] = str(error)
            continue
        if step is not None:
            began[name] = step
    return Steps(began, unread)


def _first(x: Tensor, y: Tensor, since: int) -> int | None:
    if not x.shape or not y.shape:
        return 0
    parts = np.asarray(differing(x, y, digests=False).any(axis=1))
    if parts[since:].any():
        return since + int(np.argmax(parts[since:]))
    return None if x.shape[0] == y.shape[0] else max(since, len(parts))


@dataclass(frozen=True)
class Parting:
    """Where two cells that go in steps part.

    Attributes:
        began: artifact to the first step, from 0, in which it differs.
        noise: artifacts that a repeat changes no later than the other side does: a later one is no reason for it.
        unread: artifact that differs beyond noise, but nobody knows in which step, to the reason.
    """

    began: Mapping[str, int]
    noise: frozenset[str]
    unread: Mapping[str, str]

    @property
    def step(self) -> int | None:
        """The first step that differs beyond noise; None where no artifact says so."""
        return min((step for name, step in self.began.items() if name not in self.noise), default=None)


def parting(pair: Pair) -> Parting | None:
    """Where the two of a pair part; None where they do not go in steps."""
    if not pair.kind.stepwise:
        return None
    found = beginnings(pair.store, pair.a.cell, pair.b.cell)
    repeats = [
        beginnings(pair.store, side.cell, again)
        for side, runs in ((pair.a, pair.again_a), (pair.b, pair.again_b))
        for again in runs
    ]

    def noisy(name: str) -> bool:
        own, *others = ({name: of.began[name]} if name in of.began else {} for of in (found, *repeats))
        # A repeat changes it: in an unknown step, unless one says in which.
        unknown = not any(others) or any(name in of.unread for of in repeats)
        return unknown or not all(begins_before(own, other, [name]) for other in others)

    noise = frozenset(filter(noisy, pair.noise))
    return Parting(found.began, noise, {name: why for name, why in found.unread.items() if name not in noise})


def after(names: Iterable[str], kind: JobKind) -> int:
    """The first step that begins with artifacts of steps in their place; random states are there from the start."""
    steps = []
    for pattern, step in map(kind.pattern, names):
        if step is not None:
            steps.append(int(step) + (pattern != RANDOM))
    return max(steps, default=0)


def state_before(pair: Pair, step: int, folder: Path) -> dict[str, Any]:
    """Run A's training again up to a step; returns what a job on that step is given.

    Args:
        pair: A and B.
        step: from 0.
        folder: gets what a training is given, and the state; must last as long as the result is used.

    Raises:
        LookupError: that could not be done; one sentence.
    """
    if pair.write is None:
        raise LookupError("What the training was given is not here.")
    folder.mkdir(parents=True)
    spec, out = pair.a.cell.spec, folder / "again"
    given = pair.write(pair.a.cell.version, folder)
    done = pair.bench.run(spec, pair.a.interpreter(), spec.job, {**given, "capture": "final", "state_at": step}, out)
    if not done.ok:
        raise LookupError(f"{pair.a.cell.label} could not be trained again up to step {step}: {done.reason}")
    if not (out / _STATE).is_dir():
        raise LookupError(f"{pair.a.cell.label}, trained again, did not come to step {step}.")
    return {**given, "state": str(out / _STATE), "first": step}


def row(stored: Array, request: Mapping[str, Any]) -> Array:
    """The row of an artifact that belongs to the step of a request."""
    first: int = request["first"]
    return stored[first : first + 1]
