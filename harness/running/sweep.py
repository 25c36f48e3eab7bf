"""Run planned cells on this machine: build environments ahead, run jobs on every GPU, store the cells, maybe evict.

Sweeps that run at once share environments and cells: what another one runs is taken from the store when it is there.
"""

from __future__ import annotations

import errno
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.environments.device import Gpu, choose_gpus, foreign, gpu_lock, processes_on, teams, visible_gpus
from harness.environments.supervise import Control, Stopped
from harness.environments.uv import BuildFailed
from harness.errors import InfrastructureError, UsageError
from harness.files import disk_errors
from harness.flock import Held, try_hold, whose
from harness.home import Home
from harness.running.causes import is_infrastructure, tried
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.recover import recover
from harness.running.runner import run_cell
from harness.running.specs import installed
from harness.running.work import MOST_BUILDERS, POLL_SECONDS, Env, Item, Work
from harness.store.cell import LEVELS, Cell
from harness.store.store import level, says_less

_GPU_STRIKES = 2
_TERM_PATIENCE = 10.0
"""Seconds that a running job has after SIGTERM: a scheduler kills 30 s after it, and stopping a job may take 10."""
_MEND_FIRST = {
    "offline": "; go online for one run, or bring the environments as files (--sites, docs/gpu-host.md).",
    "disk_full": ".",
}
"""Causes of a failure that the user can mend, and that every cell shares; with the mend, where the reason has none."""


class Executor(Protocol):
    """Runs a plan; the store is where its cells end, whoever ran them."""

    def run(self, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
        """Run the cells that a plan says, and return those of the whole plan in its order.

        A cell that is not among them did not run, because the user stopped the sweep; whatever else happened to a
        cell is its outcome.

        Args:
            experiment: collection, checkpoint, device and settings.
            plan: from `plan_cells`.
            board: shows progress.
            evict_after: delete each environment as soon as its cells are stored.

        Raises:
            HarnessError: not one cell could start, or nothing can be stored; the sentence says what to mend.
        """
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Runs cells on this machine.

    The first Ctrl-C lets the running cells end and starts nothing more; cells that did not run are not returned. The
    second ends them at once. SIGTERM is like the first, but the running cells have ten seconds.

    Attributes:
        gpus: one cell at a time runs on each, or on as many of them as its job has ranks; all visible GPUs of the
            device's model when None. An empty list leaves the choice to CUDA.
        jobs: how many cells run at a time on each of them, or on the CPU.
    """

    gpus: Sequence[Gpu] | None = None
    jobs: int = 1

    def run(self, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
        """See `Executor.run`.

        Raises:
            UsageError: not one cell could start, because there is no network and the cache is cold, or the disk is
                full. The outcomes are stored all the same.
            InfrastructureError: no cell ended before the user stopped the sweep, or every GPU was lost.
            KeyboardInterrupt: the user wants everything ended at once.
        """
        gpus = choose_gpus(experiment.device, None) if self.gpus is None else self.gpus
        slots = Slots(experiment.home, teams(gpus, experiment.job.ranks), self.jobs, board.note)
        cells = _Sweep(Work(experiment, plan, board, len(slots.all), evict_after=evict_after), slots).run()
        if plan and not cells:
            raise InfrastructureError("Stopped before any cell had ended; the same command goes on.")
        if cells and all(cell.details.get("cause") in _MEND_FIRST for cell in cells):
            raise UsageError(cells[0].reason.rstrip(".") + _MEND_FIRST[cells[0].details["cause"]])
        return cells


def run_plan(experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
    """Run a plan's cells one after the other, where CUDA chooses; see `LocalExecutor.run`."""
    return LocalExecutor(()).run(experiment, plan, board, evict_after=evict_after)


@dataclass
class _Slot:
    """A place where one job runs at a time: the number-th on its GPUs, from 0; without any there is no choice."""

    gpus: tuple[Gpu, ...]
    number: int
    strikes: int = 0  # so many jobs in a row lost a GPU
    waits: bool = False  # it was said that another sweep has one

    @property
    def named(self) -> str:
        """The GPUs by their numbers."""
        return ",".join(gpu.index for gpu in self.gpus)


class Slots:
    """All places of a sweep.

    Args:
        home: whose sweeps share the GPUs.
        gpus: those of each job; an empty list leaves the choice to CUDA.
        jobs: places on each, or on the CPU.
        note: called with a sentence for the user.
    """

    def __init__(self, home: Home, gpus: Sequence[tuple[Gpu, ...]], jobs: int, note: Callable[[str], object]) -> None:
        self.all = [_Slot(those, number) for number in range(jobs) for those in (gpus or ((),))]
        self._home, self._note = home, note
        self._lock = threading.Lock()

    def hold(self, slot: _Slot) -> list[Held] | None:
        """The locks of a slot's GPUs, if it has any; None while another sweep has one."""
        locks = []
        for gpu in slot.gpus:
            # One cell at a time on each GPU, also where two sweeps are at work.
            path = gpu_lock(self._home, gpu, slot.number)
            if held := try_hold(path):
                locks.append(held)
                continue
            for lock in locks:
                lock.release()
            if not slot.waits:
                slot.waits = True
                self._note(f"GPU {gpu.index} is in use by another sweep ({whose(path)}); waiting for it")
            return None
        return locks

    def others(self, slot: _Slot) -> list[dict[str, Any]]:
        """Processes on a slot's GPUs that are none of ours."""
        alone = sum(other.gpus == slot.gpus for other in self.all) == 1
        return [asdict(one) for gpu in slot.gpus for one in foreign(processes_on(gpu), alone=alone)]

    def observed(self, slot: _Slot, label: str, before: list[dict[str, Any]]) -> dict[str, Any]:
        """What a cell keeps of its GPUs, and of who else was on them before the job and after it."""
        if not slot.gpus:
            return {}
        if others := {process["pid"]: process for process in (*before, *self.others(slot))}:
            names = ", ".join(f"{p['name']} (process {p['pid']})" for p in others.values())
            self._note(f"{label}: warning: GPU {slot.named} was shared with {names}")
        return {
            "gpu": {"index": slot.named, "uuid": ",".join(gpu.uuid for gpu in slot.gpus)},
            "foreign_processes": list(others.values()),
        }

    def retire(self, slot: _Slot, cell: Cell | None) -> bool:
        """Whether a slot is given up, because its GPU is lost and there are others."""
        lost = cell is not None and cell.details.get("cause") == "gpu_lost"
        slot.strikes = slot.strikes + 1 if lost else 0
        if not lost or not slot.gpus:
            return False
        gone = not {gpu.uuid for gpu in slot.gpus} <= {gpu.uuid for gpu in visible_gpus()}
        with self._lock:
            others = any(other is not slot and other.strikes < _GPU_STRIKES for other in self.all)
            if not others or not (gone or slot.strikes >= _GPU_STRIKES):
                return False
            slot.strikes = _GPU_STRIKES
        self._note(f"GPU {slot.named} is given up; the other GPUs go on")
        return True


@dataclass
class _Asked:
    """What signals asked for: how many came, and the monotonic time at which everything is to have ended."""

    times: int = 0
    until: float = float("inf")

    @property
    def over(self) -> bool:
        """Whether running cells are to be ended now."""
        return time.monotonic() >= self.until


@contextmanager
def wishes(control: Control) -> Iterator[_Asked]:
    """Take Ctrl-C and SIGTERM as wishes while the `with` block lasts; in the main thread only."""
    asked = _Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number: int, _frame: object) -> None:
        asked.times += 1
        control.finishing.set()
        if asked.times > 1:
            asked.until = 0.0
        elif number == signal.SIGTERM:
            asked.until = time.monotonic() + _TERM_PATIENCE

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class _Sweep:
    """The main thread of a sweep: starts the others, and passes on what the user wants of them."""

    def __init__(self, work: Work, slots: Slots) -> None:
        self.work, self.slots = work, slots
        self.error: BaseException | None = None

    def run(self) -> list[Cell]:
        """Start the threads, wait for them, and return the cells that there are, in the order of the plan."""
        work, experiment = self.work, self.work.experiment
        recover(experiment.home, experiment.store, work.board.note)
        for item in work.items:
            if item.planned.stored is not None and not item.planned.run:
                item.cell = work.board.done(item.planned.stored, ran=False)
        if work.open:
            # Loaded here once: threads would each begin to.
            for item in work.items:
                experiment.inputs(item.planned.spec.version)
            self._run_threads()
        if self.error is not None:
            raise self.error
        return [item.cell for item in work.items if item.cell is not None]

    def _run_threads(self) -> None:
        cells = _Cells(self.work, self.slots)
        todo: list[Callable[[], None]] = [partial(cells.fill, slot) for slot in self.slots.all]
        todo += [self.work.build] * min(MOST_BUILDERS, self.work.ahead)
        threads = [threading.Thread(target=self._guarded, args=(one,)) for one in todo]
        with wishes(self.work.control) as asked:
            for thread in threads:
                thread.start()
            try:
                self._wait(threads, asked)
            finally:
                if any(thread.is_alive() for thread in threads):
                    self._stop()
                for thread in threads:
                    thread.join()
                self.work.release()
        if asked.times and self.work.control.stopping.is_set() and self.error is None:
            raise KeyboardInterrupt

    def _wait(self, threads: list[threading.Thread], asked: _Asked) -> None:
        said = False
        while any(thread.is_alive() for thread in threads):
            with self.work.changed:
                self.work.changed.wait(POLL_SECONDS)
            if asked.times and not said:
                said = True
                self.work.board.note(
                    "Stopping: the cells that are running come to their end, and no other starts; Ctrl-C once more "
                    "ends them now."
                )
                self.work.building.stop()
            if asked.over and not self.work.control.stopping.is_set():
                self._stop()

    def _stop(self) -> None:
        self.work.control.stop()
        self.work.building.stop()
        self.work.notify()

    def _guarded(self, todo: Callable[[], None]) -> None:
        """Run a thread's work; the first error of any ends them all, and is raised in the main thread."""
        try:
            with disk_errors(self.work.experiment.home):
                todo()
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            with self.work.changed:
                self.error = self.error or error
            self._stop()
        finally:
            self.work.notify()


class _Cells:
    """Takes one cell after the other that can run, runs it, and keeps it or puts it off."""

    def __init__(self, work: Work, slots: Slots) -> None:
        self.work, self.slots = work, slots
        self.experiment, self.store, self.board = work.experiment, work.experiment.store, work.board

    def fill(self, slot: _Slot) -> None:
        """Run cells in a slot until there is none left for it."""
        work = self.work
        while True:
            with ExitStack() as locks:
                with work.changed:
                    while (taken := self._next(slot)) is None:
                        if work.control.finishing.is_set() or not work.open:
                            return
                        work.changed.wait(POLL_SECONDS)
                item, env, held = taken
                for lock in held:
                    locks.enter_context(lock)
                cell = self._run(item, env, slot, held)
            self._ended(item, env, cell)
            if self.slots.retire(slot, cell):
                return

    def _next(self, slot: _Slot) -> tuple[Item, Env, list[Held]] | None:
        """The next cell for a slot, with the locks of its GPU and of the cell."""
        places = self.slots.hold(slot)
        if places is None:
            return None
        if taken := self._take():
            item, env, lock = taken
            return item, env, [lock, *places]
        for place in places:
            place.release()
        return None

    def _take(self) -> tuple[Item, Env, Held] | None:
        """The next cell whose environment is ready and that nobody else runs."""
        if self.work.control.finishing.is_set():
            return None
        now = time.monotonic()
        for env in self.work.envs.values():
            if env.state not in {"ready", "failed"}:
                continue
            for item in env.items:
                if item.cell is not None or item.running or item.not_before > now:
                    continue
                path = self.experiment.home.cell_lock(item.planned.spec.key)
                if (lock := try_hold(path)) is None:
                    self.board.phase(item.label, f"run by {whose(path)}")
                elif self.work.take_if_settled(item):
                    lock.release()
                    self.work.ended(env)
                else:
                    item.running = True
                    return item, env, lock
        return None

    def _run(self, item: Item, env: Env, slot: _Slot, locks: list[Held]) -> Cell | None:
        """Run a cell once; None when it is to be tried again without having been stored."""
        spec = item.planned.spec
        if env.failure is not None:
            return _not_built(self.experiment, item.planned, env.failure, env.tries)
        assert env.interpreter is not None
        self.board.phase(item.label, "start")
        held = [lock.fileno() for lock in (*locks, *([env.used] if env.used else []))]
        before = self.slots.others(slot)
        item.tries += 1
        try:
            # Somebody's `pip install` into it must not go unnoticed, whenever that was.
            self.work.ensure(spec.version, self.work.control, item.label)
            return run_cell(
                self.experiment.home,
                self.store,
                spec,
                env.interpreter,
                self.experiment.inputs(spec.version),
                device_kind=self.experiment.device.kind,
                capture=self._capture(spec.key),
                deadline=self.experiment.job.deadline,
                import_deadline=self.experiment.job.deadlines.import_,
                gpu=slot.named or None,
                extra=lambda: self._observed(item, slot, before),
                on_phase=lambda phase: self.board.phase(item.label, phase),
                on_progress=lambda far: self.board.progress(item.label, far),
                control=self.work.control,
                hold=held,
            )
        except BuildFailed as error:
            return _not_built(self.experiment, item.planned, error)
        except OSError as error:
            if error.filename and str(error.filename) == str(env.interpreter.python):
                reason = f"{item.label}: the interpreter cannot be started: {error}."
                return _not_built(self.experiment, item.planned, BuildFailed(reason, "import_failed", str(error)))
            if error.errno in {errno.ENOSPC, errno.EDQUOT} and self.work.may_try_again(item):
                return None
            raise

    def _capture(self, key: str) -> str:
        """How much a run keeps: what is wanted, and at least what the cell that it is to replace has kept."""
        there = self.store.get(key)
        kept = level(there) if there is not None and there.outcome == "ok" else -1
        return LEVELS[max(LEVELS.index(self.experiment.job.capture), kept)]

    def _observed(self, item: Item, slot: _Slot, before: list[dict[str, Any]]) -> dict[str, Any]:
        """What the cell keeps of this machine: how earlier tries ended, GPU, who else was on it, what is installed."""
        earlier = tried(self.store.latest(item.planned.spec.key))
        there = installed(self.experiment.lock(item.planned.spec.version))
        return {**({"tried": earlier} if earlier else {}), **there, **self.slots.observed(slot, item.label, before)}

    def _ended(self, item: Item, env: Env, cell: Cell | None) -> None:
        """Keep a cell, or put it back to be tried again."""
        spoilt = cell is None or (is_infrastructure(cell) and env.failure is None)
        again = spoilt and self.work.may_try_again(item)
        with self.work.changed:
            item.running = False
            if again:
                said = self.work.put_off(item)
            elif cell is not None:
                item.cell = self.board.done(cell, ran=True)
                self.work.ended(env)
            self.work.changed.notify_all()
        there = self.store.get(item.planned.spec.key)
        if cell is not None and there is not None and says_less(cell, there):
            self.board.note(
                f"{item.label}: the cell of {there.finished}, which ended well, stays; record and log of this run are "
                f"in {self.store.attempts_folder(cell.key)}."
            )
        if again:
            reason = cell.reason if cell is not None else f"The disk of {self.experiment.home.root} is full."
            self.board.note(f"{item.label}: {reason} {said}")


def _not_built(experiment: Experiment, planned: Planned, error: BuildFailed, tries: int = 1) -> Cell:
    cell = Cell.of(
        planned.spec,
        error.outcome,
        str(error),
        phase="install",
        capture=experiment.job.capture,
        details={"cause": error.cause, "tries": tries, "log_tail": "\n".join(error.log.splitlines()[-40:])},
    )
    with tempfile.TemporaryDirectory(prefix="harness-log-") as folder:
        log = Path(folder) / "log.txt"
        log.write_text(error.log, encoding="utf-8")
        return experiment.store.put(cell, log=log)
