"""Run planned cells on this machine: build environments ahead, run jobs on every GPU, store the cells, maybe evict.

One version that fails never stops the others: its outcome becomes its cell. What the machine did (no package index, a
GPU that went away, a full disk) is tried again after a wait; what the version did is not. Sweeps that run at once share
environments and cells: a cell that another one runs is left to it, and taken from the store when it is there.
"""

from __future__ import annotations

import errno
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.environments.build import Environment, ensure_environment, evict, use_environment
from harness.environments.gpus import Gpu, foreign, gpu_lock, processes_on, visible_gpus
from harness.environments.interpreter import Interpreter
from harness.environments.lockfile import Lock
from harness.environments.supervise import Control, Stopped
from harness.environments.uv import BuildFailed
from harness.errors import InfrastructureError, UsageError
from harness.files import disk_errors
from harness.flock import Held, try_hold, whose
from harness.inputs.matrix import Retry
from harness.running.builders import MOST_BUILDERS, POLL_SECONDS, Env, Item
from harness.running.causes import INFRASTRUCTURE, is_infrastructure, tried
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.running.recover import recover
from harness.running.runner import run_index
from harness.running.signals import Asked, wishes
from harness.running.slots import GPU_STRIKES, Slot
from harness.store.cell import Cell
from harness.store.store import LEVELS, Store, level, says_less

_MEND_FIRST = {
    "offline": "; go online for one run, or bring the environments as files (--sites, docs/gpu-host.md).",
    "disk_full": ".",
}
"""Causes of a failure that the user can mend, and that every cell shares; with the mend, where the reason has none."""


def run_plan(
    experiment: Experiment,
    plan: list[Planned],
    board: Board,
    *,
    evict_after: bool,
    gpus: Sequence[Gpu] = (),
    jobs: int = 1,
) -> list[Cell]:
    """Run what a plan says; return the cells of the whole plan in its order, those that were stored before included.

    The first Ctrl-C lets the running cells end and starts nothing more; cells that did not run are not returned. The
    second ends them at once. SIGTERM is like the first, but the running cells have ten seconds.

    Args:
        experiment: collection, checkpoint, device and settings.
        plan: from `Experiment.plan`.
        board: shows progress.
        evict_after: delete each environment as soon as its cells are stored.
        gpus: one cell at a time runs on each; an empty list leaves the choice to CUDA.
        jobs: how many cells run at a time on each GPU, or on the CPU.

    Raises:
        UsageError: not one cell could start, because there is no network and the cache is cold, or the disk is full.
            The outcomes are stored all the same.
        InfrastructureError: no cell ended before the user stopped the sweep, or every GPU was lost.
        KeyboardInterrupt: the user wants everything ended at once.
    """
    slots = [Slot(gpu, number) for number in range(jobs) for gpu in (gpus or (None,))]
    cells = _Sweep(experiment, plan, board, slots, evict_after=evict_after).run()
    if plan and not cells:
        raise InfrastructureError("Stopped before any cell had ended; the same command goes on.")
    if cells and all(cell.details.get("cause") in _MEND_FIRST for cell in cells):
        raise UsageError(cells[0].reason.rstrip(".") + _MEND_FIRST[cells[0].details["cause"]])
    return cells


def wait_before(retry: Retry, tries: int) -> float:
    """Seconds to wait after the `tries`-th try: twice as long each time, up to a limit, and never quite the same."""
    longest = min(retry.longest_wait_seconds, retry.first_wait_seconds * 2.0 ** (tries - 1))
    # So that processes that failed together do not come back together.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


class _Sweep:
    """The state of one sweep; every field is guarded by `changed`."""

    def __init__(
        self, experiment: Experiment, plan: list[Planned], board: Board, slots: list[Slot], *, evict_after: bool
    ) -> None:
        self.experiment, self.board, self.slots = experiment, board, slots
        self.store: Store = experiment.store
        self.evict_after = evict_after
        self.changed = threading.Condition()
        self.control = Control()
        self.building = Control()
        self.items = [Item(planned, planned.spec.label) for planned in plan]
        self.envs: dict[str, Env] = {}
        for item in self.items:
            version = item.planned.spec.version
            self.envs.setdefault(version, Env(version)).items.append(item)
        self.to_evict: list[Env] = []
        self.evicting = 0
        self.error: BaseException | None = None

    # ---- the main thread

    def run(self) -> list[Cell]:
        """Start the threads, wait for them, and return the cells that there are, in the order of the plan."""
        recover(self.experiment.home, self.store, self.board.note)
        for item in self.items:
            self._take_stored(item)
        if any(item.cell is None for item in self.items):
            # Loaded here once: threads would each begin to.
            _ = self.experiment.passages, self.experiment.checkpoint
            self._run_threads()
        if self.error is not None:
            raise self.error
        return [item.cell for item in self.items if item.cell is not None]

    def _take_stored(self, item: Item) -> None:
        stored = item.planned.stored
        if item.planned.run or stored is None:
            return
        item.cell = self.board.done(stored, ran=False)

    def _run_threads(self) -> None:
        threads = [threading.Thread(target=self._guarded, args=(self._fill, slot)) for slot in self.slots]
        builders = min(MOST_BUILDERS, len(self.slots))
        threads += [threading.Thread(target=self._guarded, args=(self._build_ahead, None)) for _ in range(builders)]
        with wishes(self.control) as asked:
            for thread in threads:
                thread.start()
            try:
                self._wait(threads, asked)
            finally:
                if any(thread.is_alive() for thread in threads):
                    self._stop()
                for thread in threads:
                    thread.join()
                for env in self.envs.values():
                    if env.used is not None:
                        env.used.release()
        if asked.times and self.control.stopping.is_set() and self.error is None:
            raise KeyboardInterrupt

    def _wait(self, threads: list[threading.Thread], asked: Asked) -> None:
        said = False
        while any(thread.is_alive() for thread in threads):
            with self.changed:
                self.changed.wait(POLL_SECONDS)
            if asked.times and not said:
                said = True
                self.board.note(
                    "Stopping: the cells that are running come to their end, and no other starts; Ctrl-C once more "
                    "ends them now."
                )
                self.building.stop()
            if asked.over and not self.control.stopping.is_set():
                self._stop()

    def _stop(self) -> None:
        self.control.stop()
        self.building.stop()
        with self.changed:
            self.changed.notify_all()

    def _guarded(self, work: Callable[[Any], None], argument: object) -> None:
        """Run a thread's work; the first error of any ends them all, and is raised in the main thread."""
        try:
            with disk_errors(self.experiment.home):
                work(argument)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            with self.changed:
                self.error = self.error or error
            self._stop()
        finally:
            with self.changed:
                self.changed.notify_all()

    # ---- environments

    def _build_ahead(self, _nothing: None) -> None:
        while True:
            with self.changed:
                env, todo = self._next_building()
                while env is None:
                    if self._nothing_left_to_build():
                        return
                    self.changed.wait(POLL_SECONDS)
                    env, todo = self._next_building()
            todo(env)
            with self.changed:
                self.changed.notify_all()

    def _nothing_left_to_build(self) -> bool:
        if self.control.stopping.is_set():
            return True
        if self.to_evict or self.evicting:
            return False
        if self.control.finishing.is_set():
            # An environment whose last cell is still running is evicted afterwards.
            return not (self.evict_after and any(item.running for item in self.items))
        return not any(env.open for env in self.envs.values())

    def _next_building(self) -> tuple[Env | None, Callable[[Env], None]]:
        if self.to_evict:
            self.evicting += 1
            return self.to_evict.pop(0), self._evict
        if self.control.finishing.is_set():
            return None, self._build
        waiting = sum(
            env.state == "building" or (env.state == "ready" and env.open and not env.started)
            for env in self.envs.values()
        )
        if waiting >= len(self.slots):
            return None, self._build
        now = time.monotonic()
        for env in self.envs.values():
            if env.state == "wanted" and env.open and env.not_before <= now:
                for item in env.items:
                    self._take_if_settled(item)
                if env.open:
                    env.state = "building"
                    return env, self._build
        return None, self._build

    def _build(self, env: Env) -> None:
        experiment, version = self.experiment, env.version
        reason = experiment.unsupported(version)
        if reason:
            with self.changed:
                env.state, env.failure = "failed", BuildFailed(reason, "unsupported", "")
            return
        self.board.phase(next(item.label for item in env.items if item.cell is None), "environment")
        try:
            interpreter = experiment.brought(version)
            environment = None
            if interpreter is None:
                env.used = env.used or use_environment(
                    experiment.home, version, experiment.device.flavour, experiment.lock(version)
                )
                environment = self._ensure(version, self.building)
                interpreter = Interpreter(environment.python)
        except BuildFailed as error:
            self._build_failed(env, error)
            return
        except Stopped:
            with self.changed:
                env.state = "gone"
            return
        with self.changed:
            env.environment, env.interpreter, env.state = environment, interpreter, "ready"

    def _ensure(self, version: str, control: Control) -> Environment:
        experiment = self.experiment
        return ensure_environment(
            experiment.home,
            experiment.matrix,
            experiment.locks,
            version,
            experiment.device.flavour,
            report=self.board.note,
            deadline=experiment.job.deadline_seconds.install,
            control=control,
        )

    def _build_failed(self, env: Env, error: BuildFailed) -> None:
        retry = self.experiment.job.retry
        with self.changed:
            env.tries += 1
            again = error.cause in INFRASTRUCTURE and env.tries < retry.tries and not self.control.finishing.is_set()
            if again:
                wait = wait_before(retry, env.tries)
                env.state, env.not_before = "wanted", time.monotonic() + wait
            else:
                env.state, env.failure = "failed", error
        if again:
            self.board.note(f"{error} Try {env.tries + 1} of {retry.tries} in {wait:.0f} s.")

    def _evict(self, env: Env) -> None:
        try:
            assert env.environment is not None
            freed = evict(self.experiment.home, env.environment, self._wanted_locks())
            if freed is None:
                self.board.note(f"{env.version}: another sweep uses the environment, which is left to it")
            else:
                self.board.note(f"{env.version}: deleted the environment ({freed / 2**30:.1f} GiB freed)")
        finally:
            with self.changed:
                self.evicting -= 1

    def _wanted_locks(self) -> list[Lock]:
        with self.changed:
            return [self.experiment.lock(env.version) for env in self.envs.values() if env.open]

    # ---- cells

    def _fill(self, slot: Slot) -> None:
        """Run one cell after the other in a slot until there is none left for it."""
        while True:
            with ExitStack() as locks:
                with self.changed:
                    taken = self._next(slot)
                    while taken is None:
                        if self.control.finishing.is_set() or not any(item.cell is None for item in self.items):
                            return
                        self.changed.wait(POLL_SECONDS)
                        taken = self._next(slot)
                item, env, held = taken
                for lock in held:
                    locks.enter_context(lock)
                cell = self._run_item(item, env, slot, held)
            self._ended(item, env, cell)
            if self._retire(slot, cell):
                return

    def _next(self, slot: Slot) -> tuple[Item, Env, list[Held]] | None:
        """The next cell for a slot, with the locks of its GPU and of the cell."""
        gpu = slot.gpu
        place = None
        if gpu is not None:
            # One cell at a time on each GPU, also where two sweeps are at work.
            path = gpu_lock(self.experiment.home, gpu, slot.number)
            place = try_hold(path)
            if place is None:
                if not slot.waits:
                    slot.waits = True
                    self.board.note(f"GPU {gpu.index} is in use by another sweep ({whose(path)}); waiting for it")
                return None
        taken = self._take()
        if taken is None:
            if place is not None:
                place.release()
            return None
        item, env, lock = taken
        return item, env, [lock, *([place] if place else [])]

    def _take(self) -> tuple[Item, Env, Held] | None:
        """The next cell whose environment is ready and that nobody else runs."""
        if self.control.finishing.is_set():
            return None
        now = time.monotonic()
        for env in self.envs.values():
            if env.state not in {"ready", "failed"}:
                continue
            for item in env.items:
                if item.cell is not None or item.running or item.not_before > now:
                    continue
                path = self.experiment.home.cell_lock(item.planned.spec.key)
                lock = try_hold(path)
                if lock is None:
                    self.board.phase(item.label, f"run by {whose(path)}")
                elif self._take_if_settled(item):
                    lock.release()
                    self._version_ended(env)
                else:
                    item.running = True
                    return item, env, lock
        return None

    def _take_if_settled(self, item: Item) -> bool:
        """Take a cell from the store that another sweep has put there since the plan was made."""
        if item.cell is not None:
            return True
        fresh = self.store.get(item.planned.spec.key)
        if fresh is None or fresh == item.planned.stored or is_infrastructure(fresh):
            return False
        kept_less = level(fresh) < LEVELS.index(self.experiment.job.capture)
        if fresh.outcome == "ok" and (kept_less or self.store.missing(fresh)):
            return False
        item.cell = self.board.done(fresh, ran=False)
        return True

    def _run_item(self, item: Item, env: Env, slot: Slot, locks: list[Held]) -> Cell | None:
        """Run a cell once; None when it is to be tried again without having been stored."""
        spec = item.planned.spec
        if env.failure is not None:
            return _not_built(self.experiment, item.planned, env.failure, env.tries)
        assert env.interpreter is not None
        self.board.phase(item.label, "start")
        held = [lock.fileno() for lock in (*locks, *([env.used] if env.used else []))]
        before = self._foreign(slot)
        item.tries += 1
        try:
            if env.environment is not None:
                # Somebody's `pip install` into it must not go unnoticed, whenever that was.
                self._ensure(spec.version, self.control)
            return run_index(
                self.experiment.home,
                self.store,
                spec,
                env.interpreter,
                self.experiment.passages,
                self.experiment.checkpoint,
                device_kind=self.experiment.device.kind,
                capture=self._capture(spec.key),
                deadline=self.experiment.job.deadline_seconds.index,
                import_deadline=self.experiment.job.deadline_seconds.import_,
                gpu=slot.gpu.index if slot.gpu else None,
                extra=lambda: self._observed(item, slot, before),
                on_phase=lambda phase: self.board.phase(item.label, phase),
                control=self.control,
                hold=held,
            )
        except BuildFailed as error:
            return _not_built(self.experiment, item.planned, error)
        except OSError as error:
            if error.filename and str(error.filename) == str(env.interpreter.python):
                reason = f"{item.label}: the interpreter cannot be started: {error}."
                return _not_built(self.experiment, item.planned, BuildFailed(reason, "import_failed", str(error)))
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            if full and item.tries < self.experiment.job.retry.tries and not self.control.finishing.is_set():
                return None
            raise

    def _capture(self, key: str) -> str:
        """How much a run keeps: what is wanted, and at least what the cell that it is to replace has kept."""
        there = self.store.get(key)
        kept = level(there) if there is not None and there.outcome == "ok" else -1
        return LEVELS[max(LEVELS.index(self.experiment.job.capture), kept)]

    def _observed(self, item: Item, slot: Slot, before: list[dict[str, Any]]) -> dict[str, Any]:
        """What the cell keeps of this machine: which GPU, who else was on it, and how earlier tries ended."""
        found: dict[str, Any] = {}
        earlier = tried(self.store.latest(item.planned.spec.key))
        if earlier:
            found["tried"] = earlier
        if slot.gpu is None:
            return found
        others = {process["pid"]: process for process in (*before, *self._foreign(slot))}
        found["gpu"] = {"index": slot.gpu.index, "uuid": slot.gpu.uuid}
        found["foreign_processes"] = list(others.values())
        if others:
            names = ", ".join(f"{p['name']} (process {p['pid']})" for p in others.values())
            self.board.note(f"{item.label}: warning: GPU {slot.gpu.index} was shared with {names}")
        return found

    def _foreign(self, slot: Slot) -> list[dict[str, Any]]:
        if slot.gpu is None:
            return []
        alone = sum(other.gpu == slot.gpu for other in self.slots) == 1
        return [asdict(process) for process in foreign(processes_on(slot.gpu), alone=alone)]

    def _ended(self, item: Item, env: Env, cell: Cell | None) -> None:
        """Keep a cell, or put it back to be tried again."""
        retry = self.experiment.job.retry
        spoilt = cell is None or (is_infrastructure(cell) and env.failure is None)
        again = spoilt and item.tries < retry.tries and not self.control.finishing.is_set()
        with self.changed:
            item.running = False
            if again:
                wait = wait_before(retry, item.tries)
                item.not_before = time.monotonic() + wait
            elif cell is not None:
                item.cell = self.board.done(cell, ran=True)
                self._version_ended(env)
            self.changed.notify_all()
        there = self.store.get(item.planned.spec.key)
        if cell is not None and there is not None and says_less(cell, there):
            self.board.note(
                f"{item.label}: the cell of {there.finished}, which ended well, stays; record and log of this run are "
                f"in {self.store.attempts_folder(cell.key)}."
            )
        if again:
            reason = cell.reason if cell is not None else f"The disk of {self.experiment.home.root} is full."
            self.board.note(f"{item.label}: {reason} Try {item.tries + 1} of {retry.tries} in {wait:.0f} s.")

    def _version_ended(self, env: Env) -> None:
        if env.open or env.state == "gone":
            return
        env.state = "gone"
        if env.used is not None:
            env.used.release()
        if self.evict_after and env.environment is not None:
            self.to_evict.append(env)

    def _retire(self, slot: Slot, cell: Cell | None) -> bool:
        """Whether a slot is given up, because its GPU is lost and there are others."""
        lost = cell is not None and cell.details.get("cause") == "gpu_lost"
        slot.strikes = slot.strikes + 1 if lost else 0
        if not lost or slot.gpu is None:
            return False
        gone = all(gpu.uuid != slot.gpu.uuid for gpu in visible_gpus())
        with self.changed:
            others = any(other is not slot and other.strikes < GPU_STRIKES for other in self.slots)
            if not others or not (gone or slot.strikes >= GPU_STRIKES):
                return False
            slot.strikes = GPU_STRIKES
        self.board.note(f"GPU {slot.gpu.index} is given up; the other GPUs go on")
        return True


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
