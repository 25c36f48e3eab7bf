"""What makes the index job unrepeatable on this machine, by experiment: run it again and again, and with other threads.

One version indexes the same few passages several times at each of a few thread counts. What changes between runs at one
count is not deterministic; what changes between counts depends on threads. Both are followed to the step and, by a
replay of recorded calls, to the call.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from harness.artifacts.graph import Change, origins
from harness.environments.device import usable_cores
from harness.environments.doctor import Check
from harness.environments.interpreter import Interpreter
from harness.errors import InfrastructureError
from harness.explain.locate import locate
from harness.explain.noise import Noise, noise_of, noisy_calls
from harness.explain.pair import Pair, Side
from harness.explain.replay import CallVerdict
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.running.checks import to_run
from harness.running.experiment import Experiment, Selection
from harness.running.interpreters import interpreters, workbench
from harness.running.runner import run_cell
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
        self.report(f"torch {self.version}, {_threads(threads)}, run {repeat + 1}")
        cell = run_cell(
            e.home, store, self.spec(threads, repeat), self.interpreter, e.inputs(self.version),
            device_kind=e.device.kind, capture="full", deadline=e.job.deadline,
        )  # fmt: skip
        if cell.outcome != "ok":
            raise InfrastructureError(f"A run with {_threads(threads)} ended as {cell.outcome}: {cell.reason}")
        return cell

    def pair(self, store: Store, a: Cell, b: Cell, noise: frozenset[str] = frozenset()) -> Pair:
        """Two runs as a pair."""
        sides = [Side(cell, lambda: self.interpreter) for cell in (a, b)]
        return Pair(
            sides[0], sides[1], noise, 1, store, workbench(self.experiment), lambda: self.experiment.passages.texts
        )


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


def examine_repeats(
    selection: Selection, version: str | None, repeats: int, *, report: Callable[[str], None]
) -> list[Check]:
    """What `harness doctor --repeats` says.

    Args:
        selection: the passages, and where they are indexed.
        version: of torch; None for the newer one of quickstart.
        repeats: runs at each thread count.
        report: says what is under way.

    Raises:
        InfrastructureError: a run ended badly.
    """
    cores = cores_check()
    # A machine with fewer cores than the matrix has threads is a finding of its own, not the end of this one.
    configured = load_matrix((selection.matrix_path or find_matrix()).resolve()).jobs.index.threads
    experiment = to_run(replace(selection, threads=min(configured, usable_cores())))
    chosen = experiment.matrix.require(version or experiment.matrix.quickstart.versions[-1])
    experiment.check()
    subject = Subject(experiment, chosen, interpreters(experiment, report)(chosen)(), report=report)
    # On a GPU the threads of the CPU only feed it.
    counts = thread_counts(experiment.job.threads) if experiment.device.kind == "cpu" else [experiment.job.threads]
    return [cores, *repeatability(subject, repeats, counts)]


def thread_counts(configured: int) -> list[int]:
    """One thread, as many as the matrix says, and as many as this machine has, where it has them."""
    cores = usable_cores()
    return sorted({number for number in (1, configured, cores) if number <= cores})


def repeatability(subject: Subject, repeats: int, counts: Sequence[int]) -> list[Check]:
    """Run the job `repeats` times at each thread count, and say what changes and what changed it."""
    with tempfile.TemporaryDirectory(dir=_made(subject.experiment.home.runs)) as name:
        folder = Path(name)
        store = Store(folder / "store")
        found = []
        for threads in counts:
            cells = tuple(subject.run(store, threads, repeat) for repeat in range(repeats))
            pair = subject.pair(store, cells[0], cells[1])
            found.append(Repeats(threads, cells, noise_of(pair, pair.a, cells[1:], folder / "scratch")))
        checks = [repeats_check(one, found) for one in found]
        checks += [_threads_check(subject, store, a, b, folder / "scratch") for a, b in pairwise(found)]
        return checks


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digests(cell: Cell) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in cell.artifacts.items()}


def repeats_check(one: Repeats, all_counts: Sequence[Repeats]) -> Check:
    """The verdict on the runs with one number of threads, in the light of those with the others."""
    runs = f"{len(one.cells)} runs with {_threads(one.threads)}"
    if one.noise is None:
        return Check("repeats", "ok", f"{runs}: all {len(one.cells[0].artifacts)} artifacts are bit for bit equal.")
    starts = "; ".join(noisy_calls(step, verdicts) for step, verdicts in one.noise.sources.items())
    steady = [other.threads for other in all_counts if not other.changing]
    why = (
        f"With {' and '.join(map(_threads, steady))} nothing changes, so what changes it is the work of several threads"
        if steady and min(steady) < one.threads
        else "It is no matter of threads"
        if all(other.changing for other in all_counts)
        else "Why is not known"
    )
    return Check(
        "repeats", "problem",
        f"{runs}: {len(one.changing)} of {len(one.cells[0].artifacts)} artifacts change from run to run, first in "
        f"{starts}. {why}; a difference between versions in these artifacts may be noise: use --repeats.",
    )  # fmt: skip


def _threads_check(subject: Subject, store: Store, a: Repeats, b: Repeats, folder: Path) -> Check:
    counts = f"{_threads(a.threads)} against {b.threads}"
    noise = a.changing | b.changing
    pair = subject.pair(store, a.cells[0], b.cells[0], noise)
    if _digests(a.cells[0]) == _digests(b.cells[0]):
        return Check("threads", "ok", f"{counts}: all {len(a.cells[0].artifacts)} artifacts are bit for bit equal.")
    subject.report(f"locating what depends on threads: {counts}")
    found = locate(pair, folder)
    differing = [p.name for p in found.places if p.change in {Change.ORIGIN, Change.INHERITED}]
    if not differing:
        return Check("threads", "warning", f"{counts}: nothing differs but what changes from run to run anyway.")
    calls: dict[str, list[CallVerdict]] = {step: [] for step in origins(found.places)}
    for step, verdict in found.origins:
        calls.setdefault(step, []).append(verdict)
    starts = "; ".join(noisy_calls(step, verdicts) for step, verdicts in calls.items())
    return Check(
        "threads", "warning",
        f"{counts}: {len(differing)} of {len(found.places)} artifacts depend on the number of threads, first in "
        f"{starts}. The number is part of a cell's key, so only cells of one number are compared.",
    )  # fmt: skip


def _threads(number: int) -> str:
    return count(number, "thread")


def cpu_kinds(cpuinfo: str) -> int:
    """How many kinds of cores `/proc/cpuinfo` shows, by model and instruction sets."""
    kinds = set()
    for block in cpuinfo.split("\n\n"):
        fields = dict(part for part in _fields(block) if part[0] in {"model name", "flags", "model", "stepping"})
        if fields:
            kinds.add(tuple(sorted(fields.items())))
    return len(kinds)


def _fields(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def cores_check(path: Path = Path("/proc/cpuinfo")) -> Check:
    """Whether all cores are of one kind: libraries choose kernels by the core that they start on."""
    try:
        kinds = cpu_kinds(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return Check("cores", "warning", f"{path} cannot be read ({error.strerror}): the kinds of cores are not known.")
    if kinds > 1:
        return Check(
            "cores", "problem",
            f"The cores are of {kinds} kinds, and libraries choose kernels by the core they start on: pin the harness "
            "to cores of one kind with taskset.",
        )  # fmt: skip
    return Check("cores", "ok", "All cores are of one kind.")
