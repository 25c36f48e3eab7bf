"""Two cells to be explained, each with what runs jobs in its environment: what `locate`, `swap` and `blame` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.artifacts.kind import JobKind
from harness.environments.interpreter import Interpreter
from harness.errors import InfrastructureError, UsageError
from harness.running.experiment import Experiment
from harness.running.job import Workbench, interpreter_of, workbench
from harness.running.plan import Planned, plan_cells, run_needed, stopped_early
from harness.running.progress import Board
from harness.running.sweep import run_plan
from harness.store.cell import Cell
from harness.store.repeats import noise_floor
from harness.store.store import Store


@dataclass(frozen=True)
class Side:
    """One of the two cells.

    Attributes:
        cell: stored, and ended well.
        interpreter: of its environment; built when it is first asked for.
    """

    cell: Cell
    interpreter: Callable[[], Interpreter]

    def digests(self) -> dict[str, str]:
        """Artifact to digest."""
        return {name: artifact.digest for name, artifact in self.cell.artifacts.items()}


@dataclass(frozen=True)
class Pair:
    """A and B, and what they have in common.

    Attributes:
        a: the older.
        b: the newer.
        noise: artifacts that change when A or B is run again.
        repeats: how often each was run again; 0 leaves the noise floor unknown.
        store: where their tensors are.
        bench: runs jobs.
        texts: the collection's passages; without them, a step can only be run on inputs that were kept.
        again_a: A's other runs.
        again_b: B's other runs.
        write: writes what the job of a version is given into a folder, and returns what its request says of that;
            without it, no job can be run again up to a point.
    """

    a: Side
    b: Side
    noise: frozenset[str]
    repeats: int
    store: Store
    bench: Workbench
    texts: Callable[[], Sequence[str]] | None = None
    again_a: tuple[Cell, ...] = ()
    again_b: tuple[Cell, ...] = ()
    write: Callable[[str, Path], dict[str, Any]] | None = None

    @property
    def kind(self) -> JobKind:
        """What is declared of the kind of job that both are of."""
        return self.a.cell.job_kind


def prepare_pair(experiment: Experiment, a: str, b: str, *, repeats: int = 1) -> Pair:
    """Run the job of both versions where that is not done yet, each once more for the noise floor; return the pair.

    A version against itself is a pair too: the first run and its repeat.

    Raises:
        UsageError: the jobs are of several ranks, and a pair is for steps that are run again in one process.
        InfrastructureError: a cell ended badly.
    """
    if experiment.job.ranks > 1:
        raise UsageError(
            f"jobs.{experiment.job.NAME}.nranks is {experiment.job.ranks}, and what is located, swapped or blamed is "
            "run again step by step in one process: pass --nranks 1 (compare, ladder, consecutive and sweep take any)."
        )
    a, b = experiment.require(a), experiment.require(b)
    same = a == b

    def run(of: Experiment, planned: list[Planned]) -> list[Cell]:
        with Board([one.spec.label for one in planned]) as board:
            return run_plan(of, planned, board, evict_after=False)

    versions = [a] if same else [a, b]
    ready, bad = run_needed(experiment, versions, run)
    if ready != versions:
        raise InfrastructureError(
            f"{bad[0].label} ended as {bad[0].outcome}: {bad[0].reason}" if bad else "Stopped before an index was made."
        )
    plan = plan_cells(experiment, versions, {b: repeats, a: max(repeats, 2 if same else 0)})
    cells = run(experiment, plan)
    if early := stopped_early(plan, cells):
        raise InfrastructureError(early)
    for cell in cells:
        if cell.outcome != "ok":
            raise InfrastructureError(f"{cell.label} ended as {cell.outcome} and cannot be compared: {cell.reason}")
    first, *again = (cell for cell in cells if cell.version == a)
    second, *again_b = [again.pop(0)] if same else [cell for cell in cells if cell.version == b]
    note = Board([]).note
    return Pair(
        Side(first, partial(interpreter_of, experiment, a, note)),
        Side(second, partial(interpreter_of, experiment, b, note)),
        (noise_floor(first, again) or frozenset()) | (noise_floor(second, again_b) or frozenset()),
        len(again),
        experiment.store,
        workbench(experiment),
        lambda: experiment.passages.texts,
        tuple(again),
        tuple(again_b),
        lambda version, folder: experiment.inputs(version).write(folder),
    )
