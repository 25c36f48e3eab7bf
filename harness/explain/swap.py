"""Run one version's job with another's artifacts in their place, in both directions, and compare.

If A's artifact in B's job gives A's index, what made it is the cause; if B's in A's gives B's, it is the whole cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.index_job import INDEX
from harness.artifacts.kind import JobKind, all_chunks
from harness.errors import InfrastructureError, UnreadableTensor, UsageError
from harness.explain.difference import Difference, difference
from harness.explain.pair import Pair, Side
from harness.explain.stepwise import after, beginnings
from harness.inputs.limits import chunks_of
from harness.running.kinds import JobInputs
from harness.running.progress import Board
from harness.running.runner import run_cell
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from harness.words import count


@dataclass(frozen=True)
class Swapped:
    """One swapped run and its comparison.

    Attributes:
        job: label of the cell whose job ran.
        values_of: label of the cell whose artifacts were put in place.
        reference: label of the cell that the result is compared with.
        artifacts: those that were swapped.
        cell: the cell of the swapped run.
        differences: artifact to how it differs from the reference's; absent where it is bit for bit equal.
        gate: whether this run is a gate: it must change nothing.
        since: of a job that goes in steps, the first that begins with what was swapped in place.
        later: of such a job, artifact to the first step from then on in which it differs; None of other jobs.
    """

    job: str
    values_of: str
    reference: str
    artifacts: tuple[str, ...]
    cell: Cell
    differences: dict[str, Difference]
    gate: bool = False
    since: int = 0
    later: Mapping[str, int] | None = None

    @property
    def downstream(self) -> list[str]:
        """Artifacts that are computed from a swapped one, directly or not."""
        names, kind = set(self.cell.artifacts), self.cell.job_kind
        found: list[str] = []
        for name in kind.in_order(names):
            inputs = kind.inputs_of(name, names)
            # A step begins with all that the steps before it have left.
            reached = kind.stepwise or any(one in found or one in self.artifacts for one in inputs)
            if name not in self.artifacts and reached:
                found.append(name)
        return found

    @property
    def resolved(self) -> bool:
        """Whether everything final is bit for bit the reference's, in as far as it came after what was swapped."""
        kind = self.cell.job_kind
        final = (known for name in self.differences if kind.is_final(name) and (known := kind.known(name)))
        return not self.later and not [one for one in final if self.later is None or one.once]


def _together(kind: JobKind) -> dict[str, str]:
    """What stands for every chunk of an artifact that can be swapped, such as `embs`, and its pattern."""
    return {all_chunks(pattern): pattern for pattern in kind.swappable if "*" in pattern}


def check_names(
    names: Sequence[str], passages: Callable[[], int], kind: JobKind = INDEX, steps: int | None = None
) -> None:
    """Refuse what no such job makes, or what cannot be swapped, before anything is run.

    Args:
        names: of artifacts.
        passages: how many there are; called only where a chunk is named, since it may fetch them.
        kind: of the job.
        steps: how many a job has that goes in steps, which are its chunks.

    Raises:
        UsageError: the sentence lists what can be swapped.
    """
    together = _together(kind)
    part = "chunk" if steps is None else "step"
    for name in names:
        pattern, chunk = kind.pattern(name)
        if name not in together and pattern not in kind.swappable:
            whole = "".join(f", and {one} for all {part}s" for one in together)
            raise UsageError(
                f"{name!r} cannot be swapped; these can: {', '.join(kind.swappable).replace('*', f'<{part}>')}{whole}."
            )
        if chunk is None:
            continue
        if steps is not None and int(chunk) >= steps:
            raise UsageError(f"There is no {name!r}: the training has {count(steps, 'step')}, numbered from 0.")
        if steps is None and int(chunk) >= chunks_of(passages()):
            raise UsageError(
                f"There is no {name!r}: colbert-ai encodes {count(passages(), 'passage')} in "
                f"{count(chunks_of(passages()), 'chunk')}, numbered from 0."
            )


def steps_named(names: Sequence[str], kind: JobKind) -> list[int]:
    """The steps, or chunks, that artifacts' names have, in order."""
    return sorted({int(chunk) for _pattern, chunk in map(kind.pattern, names) if chunk is not None})


def kept(side: Side, names: Sequence[str]) -> tuple[str, ...]:
    """The artifacts to swap; what stands for every chunk, such as `embs`, is replaced by those that are there.

    Raises:
        UsageError: one that the side's job did not make, or whose tensor was not kept.
    """
    kind = side.cell.job_kind
    together = _together(kind)
    found: dict[str, None] = {}
    for name in names:
        chunks = [known for known in side.cell.artifacts if kind.pattern(known)[0] == together.get(name)]
        for known in chunks if name in together else [name]:
            if known not in side.cell.artifacts:
                raise UsageError(f"{side.cell.label} has no artifact {known!r}.{_hint(side, known)}")
            if not side.cell.artifacts[known].stored:
                raise UsageError(f"{known} of {side.cell.label} was not kept: run it again with --capture full.")
            found[known] = None
    return tuple(found)


def _hint(side: Side, name: str) -> str:
    """How to get what a job keeps of chosen steps only."""
    kind, step = side.cell.job_kind, side.cell.job_kind.pattern(name)[1]
    if not kind.stepwise or step is None:
        return ""
    return (
        f" Put {step} into jobs.{kind.name}.full_steps of matrix.yaml, and run `harness {kind.name} "
        f"{side.cell.version} --again --capture full` with the same options."
    )


@dataclass(frozen=True)
class Swapper:
    """Runs swapped jobs of one pair; cells that are stored already are not run again.

    Attributes:
        pair: A and B.
        inputs: what the job of a version is given.
        board: shows progress.
    """

    pair: Pair
    inputs: Callable[[str], JobInputs]
    board: Board

    def run(self, job: Side, values: Side, names: Sequence[str], reference: Side, *, gate: bool = False) -> Swapped:
        """Run the job of one side with artifacts of another, and compare with `reference`.

        Raises:
            InfrastructureError: the swapped job ended badly.
        """
        swap = {name: values.cell.artifacts[name].digest for name in names}
        spec = replace(job.cell.spec, swap=swap, repeat=0)
        cell = self.pair.store.get(spec.key)
        if cell is None or cell.outcome != "ok":
            files = {name: self.pair.store.object_path(digest) for name, digest in swap.items()}
            label = f"{job.cell.label} with {', '.join(names)} of {values.cell.label}"
            cell = self._job(job, spec, self.pair.store, label, "full", files)
        if cell.outcome != "ok":
            raise InfrastructureError(f"The swapped job {cell.label} ended as {cell.outcome}: {cell.reason}")
        kind, store = cell.job_kind, self.pair.store
        since = after(names, kind)
        later = None
        if kind.stepwise:
            steps = beginnings(store, cell, reference.cell, since)
            for reason in steps.unread.values():
                raise UnreadableTensor(reason)
            later = steps.began
        return Swapped(
            job.cell.label, values.cell.label, reference.cell.label, tuple(names), cell,
            differences(store, cell, reference.cell), gate, since, later,
        )  # fmt: skip

    def both(self, names: Sequence[str], *, gates: bool = True) -> list[Swapped]:
        """B's job with A's artifacts against A, A's job with B's against B, and, as a gate, A's with A's against A."""
        a, b = self.pair.a, self.pair.b
        found = [self.run(a, a, names, a, gate=True)] if gates else []
        return [*found, self.run(b, a, names, a), self.run(a, b, names, b)]

    def capture_gate(self, folder: Path) -> list[str]:
        """Run A's job without capturing anything; return the final artifacts that differ, which should be none."""
        a = self.pair.a
        cell = self._job(a, a.cell.spec, Store(folder), f"{a.cell.label} without capture", "final")
        if cell.outcome != "ok":
            raise InfrastructureError(f"{a.cell.label} without capture ended as {cell.outcome}: {cell.reason}")
        final = cell.job_kind.in_order(filter(cell.job_kind.is_final, {*a.cell.artifacts, *cell.artifacts}))
        mine = a.digests()
        return [n for n in final if n not in cell.artifacts or cell.artifacts[n].digest != mine.get(n)]

    def _job(
        self, job: Side, spec: CellSpec, store: Store, label: str, capture: str, swap: dict[str, Path] | None = None
    ) -> Cell:
        self.board.phase(label, "start")
        bench = self.pair.bench
        return run_cell(
            bench.home, store, spec, job.interpreter(), self.inputs(spec.version),
            device_kind=bench.device_kind, capture=capture, deadline=bench.deadline, swap=swap,
            on_phase=lambda phase: self.board.phase(label, phase),
        )  # fmt: skip


def differences(store: Store, cell: Cell, reference: Cell) -> dict[str, Difference]:
    """Artifact to how it differs from the reference's, in the order of the pipeline."""
    found = {}
    for name in cell.job_kind.in_order({*cell.artifacts, *reference.artifacts}):
        mine, theirs = cell.artifacts.get(name), reference.artifacts.get(name)
        if mine is None or theirs is None or mine.digest != theirs.digest:
            found[name] = difference(store, theirs, mine, cell.job_kind.known(name))
    return found
