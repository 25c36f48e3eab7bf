"""What is run in a counterfactual environment to see whose result it gives: the cheapest that shows the difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.environments.interpreter import Interpreter
from harness.explain.pair import Side
from harness.explain.replay import run_together
from harness.running.experiment import Experiment
from harness.running.job import Workbench
from harness.running.runner import run_cell
from harness.store.cell import Cell
from harness.store.store import Store

SAMPLE = 200
"""Passages, or queries, of the sample that a whole job is tried on before it is run on all of them."""


class Seen(NamedTuple):
    """What one environment made of one step.

    Attributes:
        outcome: of the job.
        reason: one sentence where it is not `ok`.
        digest: of the result; empty where there is none.
    """

    outcome: str
    reason: str = ""
    digest: str = ""


class Probe(Protocol):
    """Something that can be run in an environment, and shows the result of one step or of several."""

    @property
    def steps(self) -> Sequence[str]:
        """The steps that it shows."""

    @property
    def means(self) -> str:
        """What is run, as part of a sentence."""

    def __call__(self, side: Side, interpreter: Interpreter, /) -> Mapping[str, Seen]:
        """Step to what it made in an environment with the variables and settings of a side."""

    def own(self, side: Side) -> Mapping[str, Seen]:
        """The same of a side in its own environment."""

    def of(self, steps: Collection[str]) -> Probe:
        """The same for these of its steps only: what shows nothing need not be run in each environment."""


@dataclass(frozen=True)
class StepsAlone:
    """Steps run by themselves, with A's inputs.

    Attributes:
        bench: runs jobs.
        requests: step to the request of a `step` job.
    """

    bench: Workbench
    requests: Mapping[str, dict[str, Any]]

    @property
    def steps(self) -> Sequence[str]:
        """See `Probe`."""
        return [*self.requests]

    @property
    def means(self) -> str:
        """See `Probe`."""
        return "alone"

    def __call__(self, side: Side, interpreter: Interpreter) -> Mapping[str, Seen]:
        """See `Probe`."""
        with self.bench.scratch("blame") as out:
            done = run_together(self.bench, side.cell.spec, interpreter, "step", [*self.requests.values()], out)
        return {
            step: _seen(one.outcome, one.reason, one.result.get("outputs"), self.bench)
            for step, one in zip(self.requests, done, strict=True)
        }

    def own(self, side: Side) -> Mapping[str, Seen]:
        """See `Probe`."""
        return self(side, side.interpreter())

    def of(self, steps: Collection[str]) -> StepsAlone:
        """See `Probe`."""
        return replace(self, requests={step: asked for step, asked in self.requests.items() if step in steps})


@dataclass(frozen=True)
class WholeJob:
    """The job itself, for steps that cannot be run alone or do not show the difference so.

    Attributes:
        bench: runs jobs.
        experiment: of the cells, all of them or a sample.
        artifacts: step to those of its artifacts that differ.
        means: see `Probe`.
        stored: whether it is the very job of the two cells, whose own results are known.
    """

    bench: Workbench
    experiment: Experiment
    artifacts: Mapping[str, Sequence[str]]
    means: str
    stored: bool = False

    @property
    def steps(self) -> Sequence[str]:
        """See `Probe`."""
        return [*self.artifacts]

    def own(self, side: Side) -> Mapping[str, Seen]:
        """See `Probe`."""
        return self._read(side.cell) if self.stored else self(side, side.interpreter())

    def of(self, steps: Collection[str]) -> WholeJob:
        """See `Probe`."""
        return replace(self, artifacts={step: names for step, names in self.artifacts.items() if step in steps})

    def __call__(self, side: Side, interpreter: Interpreter) -> Mapping[str, Seen]:
        """See `Probe`."""
        version = side.cell.version
        spec = replace(self.experiment.spec(version), environment=side.cell.spec.environment)
        with self.bench.scratch("blame-job") as folder:
            cell = run_cell(
                self.bench.home, Store(Path(folder, "store")), spec, interpreter, self.experiment.inputs(version),
                device_kind=self.bench.device_kind, capture="digests", deadline=self.bench.deadline,
            )  # fmt: skip
        return self._read(cell)

    def _read(self, cell: Cell) -> Mapping[str, Seen]:
        made = {name: artifact.digest for name, artifact in cell.artifacts.items()}
        return {
            step: _seen(cell.outcome, cell.reason, {name: made[name] for name in names if name in made}, self.bench)
            for step, names in self.artifacts.items()
        }


def _seen(outcome: str, reason: str, made: object, bench: Workbench) -> Seen:
    if outcome != "ok":
        return Seen(outcome, reason.replace(f"{bench.home.environments}/", ""))
    if not made:
        return Seen("unsupported", "It makes nothing there that could be compared.")
    return Seen("ok", "", hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32])
