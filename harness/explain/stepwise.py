"""The training step in which two trainings begin to differ, to be run by itself from the state that A had there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.kind import JobKind
from harness.artifacts.steps import differing
from harness.errors import UnreadableTensor
from harness.explain.pair import Pair
from harness.store.cell import Artifact, Cell
from harness.store.store import Store
from harness.tensors.dtypes import Array

RANDOM = "random_*"
"""The artifact that is put in place as a step begins; others are what a part of the step has made."""
_STATE = "state"
"""The folder in which the job leaves the state of a step."""


def beginnings(store: Store, a: Cell, b: Cell, since: int = 0) -> dict[str, int]:
    """Artifact to the first row, which is a step, in which two cells differ in any bit; only of those that have rows.

    Steps before `since` are not looked at. A training that ends earlier differs from the step on that it does not have.
    """
    found = {}
    for name in {*a.artifacts, *b.artifacts}:
        known = a.job_kind.known(name)
        if known is None or known.name != name or name == "trained":
            continue  # no rows, but the numbers of one step or of the last
        one, other = a.artifacts.get(name), b.artifacts.get(name)
        if one is None or other is None or one.digest == other.digest:
            continue
        step = _first(store, one, other, since)
        if step is not None:
            found[name] = step
    return found


def _first(store: Store, one: Artifact, other: Artifact, since: int) -> int | None:
    try:
        x, y = store.load(one), store.load(other)
    except UnreadableTensor:
        return None
    if not x.shape or not y.shape:
        return 0
    parts = np.asarray(differing(x, y, digests=False).any(axis=1))
    if parts[since:].any():
        return since + int(np.argmax(parts[since:]))
    return None if x.shape[0] == y.shape[0] else max(since, len(parts))


def noisy(pair: Pair, began: Mapping[str, int]) -> frozenset[str]:
    """The artifacts that a repeat changes no later than the other side does: a later one is no reason for it."""
    first: dict[str, int] = {}
    for side, repeats in ((pair.a, pair.again_a), (pair.b, pair.again_b)):
        for again in repeats:
            for name, step in beginnings(pair.store, side.cell, again).items():
                first[name] = min(step, first.get(name, step))
    return frozenset(name for name in pair.noise if name not in began or first.get(name, 0) <= began[name])


def after(names: Iterable[str], kind: JobKind) -> int:
    """The first step that begins with artifacts of steps in their place; random states are there from the start."""
    steps = []
    for pattern, step in map(kind.pattern, names):
        if step is not None:
            steps.append(int(step) + (pattern != RANDOM))
    return max(steps, default=0)


@dataclass(frozen=True)
class Beginning:
    """Where two trainings begin to differ.

    Attributes:
        step: from 0.
        artifacts: that differ in it.
    """

    step: int
    artifacts: frozenset[str]


def beginning(pair: Pair) -> Beginning | None:
    """The first step that differs beyond noise; None where no artifact says so."""
    began = beginnings(pair.store, pair.a.cell, pair.b.cell)
    noise = noisy(pair, began)
    steps = {name: step for name, step in began.items() if name not in noise}
    if not steps:
        return None
    first = min(steps.values())
    return Beginning(first, frozenset(name for name, step in steps.items() if step == first))


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
