"""What makes the index job unrepeatable on this machine: the same few passages, again and again at each thread count.

What changes between runs at one count is not deterministic; what changes between counts depends on threads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from harness.environments.device import usable_cores
from harness.environments.interpreter import Interpreter
from harness.errors import InfrastructureError
from harness.explain.locate import Location, locate
from harness.explain.noise import Noise, noise_of
from harness.explain.pair import Pair, Side
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.running.checks import to_run
from harness.running.experiment import Experiment
from harness.running.job import interpreter_of, workbench
from harness.running.runner import run_cell
from harness.running.selection import Selection
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from harness.words import count

PASSAGES = 60
"""Enough for a last batch that is smaller than the others; a run takes seconds."""


@dataclass(frozen=True)
class Subject:
    """What is run again and again.

    Attributes:
        experiment: home, collection, checkpoint, job and device.
        version: of torch.
        interpreter: of its environment.
        variables: added to the job's environment.
        report: says what is under way.
    """

    experiment: Experiment
    version: str
    interpreter: Interpreter
    variables: Mapping[str, str] = field(default_factory=dict)
    report: Callable[[str], None] = lambda _text: None

    def spec(self, threads: int, repeat: int) -> CellSpec:
        """The cell of one run."""
        experiment = copy.copy(self.experiment)
        experiment.job = experiment.job.model_copy(update={"threads": threads})
        spec = experiment.spec(self.version, repeat)
        return replace(spec, environment={**spec.environment, **self.variables})

    def run(self, store: Store, threads: int, repeat: int) -> Cell:
        """Index once.

        Raises:
            InfrastructureError: the job ended badly.
        """
        e = self.experiment
        self.report(f"torch {self.version}, {count(threads, 'thread')}, run {repeat + 1}")
        cell = run_cell(
            e.home, store, self.spec(threads, repeat), self.interpreter, e.inputs(self.version),
            device_kind=e.device.kind, capture="full", deadline=e.job.deadline,
        )  # fmt: skip
        if cell.outcome != "ok":
            raise InfrastructureError(f"A run with {count(threads, 'thread')} ended as {cell.outcome}: {cell.reason}")
        return cell

    def pair(self, store: Store, a: Cell, b: Cell, noise: frozenset[str] = frozenset()) -> Pair:
        """Two runs as a pair."""
        one, other = (Side(cell, lambda: self.interpreter) for cell in (a, b))
        return Pair(one, other, noise, 1, store, workbench(self.experiment), lambda: self.experiment.passages.texts)


@dataclass(frozen=True)
class Repeats:
    """Runs of the same job at one thread count.

    Attributes:
        threads: of the job.
        cells: the runs.
        noise: what changes from run to run, and where it comes from; None where nothing does.
    """

    threads: int
    cells: tuple[Cell, ...]
    noise: Noise | None = None

    @property
    def changing(self) -> frozenset[str]:
        """Artifacts that are not the same in all runs."""
        return frozenset(self.noise.artifacts if self.noise else ())


@dataclass(frozen=True)
class Repeatability:
    """What was found.

    Attributes:
        runs: at each thread count.
        between: each two neighbouring thread counts, and where their first runs differ; None where they are equal.
    """

    runs: tuple[Repeats, ...]
    between: tuple[tuple[Repeats, Repeats, Location | None], ...]


def examine_repeats(
    selection: Selection, version: str | None, repeats: int, *, report: Callable[[str], None]
) -> Repeatability:
    """What `harness doctor --repeats` asks.

    Args:
        selection: the passages, and where they are indexed.
        version: of torch; None for the newer one of quickstart.
        repeats: runs at each thread count.
        report: says what is under way.

    Raises:
        InfrastructureError: a run ended badly.
    """
    # A machine with fewer cores than the matrix has threads is a finding of its own, not the end of this one.
    configured = load_matrix((selection.matrix_path or find_matrix()).resolve()).jobs.index.threads
    experiment = to_run(replace(selection, threads=min(configured, usable_cores())))
    chosen = experiment.require(version or experiment.matrix.quickstart.versions[-1])
    experiment.check()
    subject = Subject(experiment, chosen, interpreter_of(experiment, chosen, report), report=report)
    # On a GPU the threads of the CPU only feed it.
    counts = thread_counts(experiment.job.threads) if experiment.device.kind == "cpu" else [experiment.job.threads]
    return repeatability(subject, repeats, counts)


def thread_counts(configured: int) -> list[int]:
    """One thread, as many as the matrix says, and as many as this machine has, where it has them."""
    cores = usable_cores()
    return sorted({number for number in (1, configured, cores) if number <= cores})


def repeatability(subject: Subject, repeats: int, counts: Sequence[int]) -> Repeatability:
    """Run the job `repeats` times at each thread count, and find what changes and what changed it."""
    with workbench(subject.experiment).scratch("repeats") as folder:
        store = Store(folder / "store")
        found = []
        for threads in counts:
            cells = tuple(subject.run(store, threads, repeat) for repeat in range(repeats))
            pair = subject.pair(store, cells[0], cells[1])
            found.append(Repeats(threads, cells, noise_of(pair, pair.a, cells[1:], folder / "scratch")))
        between = [(a, b, _difference(subject, store, a, b, folder / "scratch")) for a, b in pairwise(found)]
        return Repeatability(tuple(found), tuple(between))


def _difference(subject: Subject, store: Store, a: Repeats, b: Repeats, folder: Path) -> Location | None:
    pair = subject.pair(store, a.cells[0], b.cells[0], a.changing | b.changing)
    if pair.a.digests() == pair.b.digests():
        return None
    subject.report(f"locating what depends on threads: {count(a.threads, 'thread')} against {b.threads}")
    return locate(pair, folder)
