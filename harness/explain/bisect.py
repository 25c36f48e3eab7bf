"""Between which two neighbouring builds a result changed: a binary search whose state is the cells in the store."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from harness.artifacts.comparison import ArtifactComparison, compare_sources
from harness.environments.lockfile import lock_path
from harness.environments.resolve import CannotBeLocked, write_locks
from harness.environments.uv import run_uv
from harness.errors import InfrastructureError, UsageError
from harness.explain.marks import mark
from harness.inputs.matrix import Listed
from harness.running.causes import is_infrastructure
from harness.running.experiment import Experiment
from harness.running.plan import plan_cells, stopped_early
from harness.running.progress import Board
from harness.running.sweep import run_plan
from harness.store.cell import Cell
from harness.store.spec import digest_of
from harness.store.stored import StoredCell
from harness.tensors.profiles import DEFAULT

NOT_THE_VERSION = frozenset({"timeout", "out_of_memory", "lost"})
"""Outcomes that say something about this machine, so that a build is not skipped for them."""


# ---- the search


def next_to_look_at(low: int, high: int, skipped: Iterable[int]) -> int | None:
    """The middle of the widest gap between what is known; None where nothing is left between `low` and `high`.

    Without skipped ones that is the middle. With them it moves away from a run of broken builds by ever smaller
    halves, where the neighbours of the middle would be broken, too.
    """
    known = sorted({low, high, *(one for one in skipped if low < one < high)})
    widest = max(b - a for a, b in itertools.pairwise(known))
    if widest < 2:
        return None
    middle = (low + high) / 2
    places = [(a + b) // 2 for a, b in itertools.pairwise(known) if b - a == widest]
    return min(places, key=lambda place: abs(place - middle))


def search(number: int, look: Callable[[int], bool | None]) -> tuple[int, int]:
    """Positions of the last that is as the first, and of the first that is not, as near as can be told.

    Args:
        number: of builds; the first is the reference, and the last is known to differ from it.
        look: says whether one differs from the first; None where it cannot be said. Asked once for each.

    Returns:
        Neighbours, but for those between them of which `look` cannot say.
    """
    low, high, skipped = 0, number - 1, set[int]()
    while (place := next_to_look_at(low, high, skipped)) is not None:
        changed = look(place)
        if changed is None:
            skipped.add(place)
        elif changed:
            high = place
        else:
            low = place
    return low, high


# ---- what is searched


@dataclass(frozen=True)
class Look:
    """One build that was looked at.

    Attributes:
        version: of torch.
        result: `same` as A, `changed`, or `skipped`.
        changed: artifacts that differ from A's beyond noise.
        reason: why it was skipped.
    """

    version: str
    result: str
    changed: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Bisection:
    """The answer.

    Attributes:
        builds: all, in order, A and B included.
        looks: those that were looked at, in that order; B is the first.
        last_same: the last build whose result is A's; None where B's is, too.
        first_changed: the first build whose result is not; its neighbour, but for `between`.
        between: builds between the two that could not be looked at.
        changed: artifacts that differ between the two beyond noise.
        later: artifacts that differ between `first_changed` and B: there is another change.
        noisy: artifacts of which a difference is no more than what a repeat of A shows.
    """

    builds: tuple[str, ...]
    looks: tuple[Look, ...]
    last_same: str | None = None
    first_changed: str | None = None
    between: tuple[Look, ...] = ()
    changed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    noisy: tuple[str, ...] = ()


def with_builds(experiment: Experiment, builds: Sequence[Listed]) -> Experiment:
    """The experiment over more versions, whose locks are in the home; those of the matrix stay as they are.

    The folder's name is the digest of all that decides a lock, so that none is ever used for another matrix.
    """
    own = experiment.matrix
    matrix = own.with_versions(builds, {})
    decides = own.model_dump(mode="json", include={"python", "platform", "exclude_newer", "requirements", "oddities"})
    found = copy.copy(experiment)
    found.matrix, found.locks = matrix, experiment.home.build_locks / digest_of([decides, dict(own.indexes)])[:12]
    for one in builds:
        if one.version in own.versions:
            source = experiment.lock(one.version).path
            target = found.locks / source.parent.name / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return found


def bisect(
    experiment: Experiment,
    builds: Sequence[Listed],
    *,
    artifact: str | None = None,
    repeats: int = 1,
    retry: bool = False,
    evict: bool = False,
    report: Callable[[str], None] = lambda _text: None,
) -> Bisection:
    """Find the step between two builds at which the index stops being that of the first.

    Args:
        experiment: collection, checkpoint, device and settings.
        builds: in order; the first is A and the last B.
        artifact: only this one counts; every tensor of the index when absent.
        repeats: extra runs of A, for noise.
        retry: try builds again that did not install or run before.
        evict: delete each environment as soon as its cell is stored.
        report: says what is under way.

    Raises:
        InfrastructureError: A or B could not be indexed with, or something that is not a build's doing is in the way;
            what was found until then is in the store.
        UsageError: there is no such artifact, or A or B has no lock.
    """
    bench = _Bench(with_builds(experiment, builds), artifact, evict=evict)
    names = [one.version for one in builds]
    a, b = bench.cell(names[0], repeats, retry=True), bench.cell(names[-1], retry=True)
    for version, cell in ((names[0], a), (names[-1], b)):
        if isinstance(cell, str):
            raise InfrastructureError(f"{version} cannot be compared: {cell}")
    assert not isinstance(a, str)
    assert not isinstance(b, str)
    if artifact is not None and artifact not in a.artifacts:
        raise UsageError(f"--artifact {artifact}: the job makes {', '.join(a.artifacts)}; name one of these.")
    cells = {0: a, len(names) - 1: b}
    looks: dict[int, Look] = {}

    def look(place: int) -> bool | None:
        version = names[place]
        if place not in cells:
            found = bench.cell(version, retry=retry)
            if isinstance(found, str):
                looks[place] = Look(version, "skipped", reason=found)
                report(f"{version}: skipped: {found}")
                return None
            cells[place] = found
        changed, unknown = bench.changed(a, cells[place])
        if unknown and not changed:
            looks[place] = Look(version, "skipped", reason=f"{', '.join(unknown)} could not be read")
            return None
        looks[place] = Look(version, "changed" if changed else "same", changed)
        report(f"{version}: changed {', '.join(changed)}" if changed else f"{version}: as {names[0]}")
        return bool(changed)

    differs = look(len(names) - 1)
    if differs is None:
        raise InfrastructureError(f"{names[0]} and {names[-1]} cannot be compared: {looks[len(names) - 1].reason}.")
    answer = partial(Bisection, tuple(names), noisy=bench.noisy(a, b))
    if not differs:
        return answer(tuple(looks.values()))
    low, high = search(len(names), look)
    return answer(
        tuple(looks.values()),
        last_same=names[low],
        first_changed=names[high],
        between=tuple(looks[place] for place in range(low + 1, high)),
        changed=bench.changed(cells[low], cells[high])[0],
        later=bench.changed(cells[high], b)[0],
    )


@dataclass
class _Bench:
    """Locks, runs and compares builds."""

    experiment: Experiment
    artifact: str | None
    evict: bool

    def cell(self, version: str, repeats: int = 0, *, retry: bool) -> Cell | str:
        """The cell of a build, from the store or run now, with repeats beside it; or why there is none.

        Raises:
            InfrastructureError: it is not the build's doing.
        """
        experiment = self.experiment
        problem = self._lock(version)
        if problem:
            return problem
        stored = experiment.store.get(experiment.spec(version).key)
        again = retry or (stored is not None and _not_the_version(stored))
        plan = plan_cells(experiment, [version], {version: repeats}, retry=again)
        with Board([planned.spec.label for planned in plan]) as board:
            cells = run_plan(experiment, plan, board, evict_after=self.evict)
        early = stopped_early(plan, cells)
        if early:
            raise InfrastructureError(early)
        bad = next((cell for cell in cells if cell.outcome != "ok"), None)
        if bad is None:
            return cells[0]
        if _not_the_version(bad):
            raise InfrastructureError(
                f"{bad.label} ended as {bad.outcome}, which need not be the build's doing: {bad.reason} The same "
                "command goes on where this one stopped."
            )
        return f"{bad.outcome}: {bad.reason}"

    def _lock(self, version: str) -> str:
        """Lock a build if that is not done; why it cannot be, or nothing."""
        experiment, flavour = self.experiment, self.experiment.device.flavour
        if lock_path(experiment.locks, version, flavour).exists():
            return ""
        try:
            write_locks(experiment.matrix, experiment.locks, [version], partial(run_uv, experiment.home), (flavour,))
        except CannotBeLocked as error:
            return f"resolve_failed: {error}"
        return ""

    def _rows(self, a: Cell, b: Cell) -> list[ArtifactComparison]:
        store = self.experiment.store
        one, other = StoredCell(store, a), StoredCell(store, b)
        marked = mark(compare_sources(one, other, [DEFAULT]), one, other)
        return [row for row in marked.artifacts if row.tensor and self._counts(a, row.name)]

    def _counts(self, cell: Cell, name: str) -> bool:
        return name == self.artifact if self.artifact is not None else cell.job_kind.is_final(name)

    def changed(self, a: Cell, b: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Artifacts that differ by a bit and beyond noise, and those of which nobody knows."""
        rows = self._rows(a, b)
        differ = [row.name for row in rows if not row.bit_equal and not row.unknown and row.above_noise is not False]
        return tuple(differ), tuple(row.name for row in rows if row.unknown)

    def noisy(self, a: Cell, b: Cell) -> tuple[str, ...]:
        """Artifacts that differ, and no more than a repeat shows."""
        return tuple(row.name for row in self._rows(a, b) if row.above_noise is False and not row.bit_equal)


def _not_the_version(cell: Cell) -> bool:
    return cell.outcome in NOT_THE_VERSION or is_infrastructure(cell)
