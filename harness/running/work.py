"""What the threads of a sweep share, and how some of them build environments while other versions' jobs run."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.environments.build import evict
from harness.environments.interpreter import Interpreter
from harness.environments.supervise import Control, Stopped
from harness.environments.uv import BuildFailed
from harness.flock import Held
from harness.inputs.jobs import Retry
from harness.running.causes import INFRASTRUCTURE, is_infrastructure
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.store.cell import LEVELS, Cell
from harness.store.store import level

POLL_SECONDS = 0.2
MOST_BUILDERS = 4


@dataclass
class Item:
    """One cell of the plan."""

    planned: Planned
    cell: Cell | None = None
    running: bool = False
    tries: int = 0
    not_before: float = 0.0

    @property
    def label(self) -> str:
        """What the board calls it."""
        return self.planned.spec.label


@dataclass
class Env:
    """One version's environment.

    Attributes:
        state: `wanted`, `building`, `ready`, `failed` or `gone`.
        used: keeps other sweeps from deleting it.
    """

    version: str
    items: list[Item] = field(default_factory=list)
    state: str = "wanted"
    interpreter: Interpreter | None = None
    used: Held | None = None
    failure: BuildFailed | None = None
    tries: int = 0
    not_before: float = 0.0

    @property
    def open(self) -> bool:
        """Whether one of its cells has not ended."""
        return any(item.cell is None for item in self.items)

    @property
    def started(self) -> bool:
        """Whether one of its cells runs or has run."""
        return any(item.running or item.cell is not None for item in self.items)


class Work:
    """The cells and the environments of one sweep, with what builds these and deletes them.

    `changed` guards every field of them.

    Args:
        experiment: collection, checkpoint, device and settings.
        plan: from `plan_cells`.
        board: shows progress.
        ahead: as many jobs can run at once; at most so many environments are built before their jobs start.
        evict_after: delete each environment as soon as its cells have ended.
    """

    def __init__(
        self, experiment: Experiment, plan: Sequence[Planned], board: Board, ahead: int, *, evict_after: bool
    ) -> None:
        self.experiment, self.board, self.ahead, self.evict_after = experiment, board, ahead, evict_after
        self.changed = threading.Condition()
        self.control, self.building = Control(), Control()
        self._to_evict: list[Env] = []
        self._evicting = 0
        self.items = [Item(planned) for planned in plan]
        self.envs: dict[str, Env] = {}
        for item in self.items:
            version = item.planned.spec.version
            self.envs.setdefault(version, Env(version)).items.append(item)

    @property
    def open(self) -> bool:
        """Whether a cell has not ended."""
        return any(env.open for env in self.envs.values())

    def notify(self) -> None:
        """Wake the threads that wait for a change."""
        with self.changed:
            self.changed.notify_all()

    def take_if_settled(self, item: Item) -> bool:
        """Take a cell from the store that another sweep has put there since the plan was made."""
        if item.cell is not None:
            return True
        store = self.experiment.store
        fresh = store.get(item.planned.spec.key)
        if fresh is None or fresh == item.planned.stored or is_infrastructure(fresh):
            return False
        kept_less = level(fresh) < LEVELS.index(self.experiment.job.capture)
        if fresh.outcome == "ok" and (kept_less or store.missing(fresh)):
            return False
        item.cell = self.board.done(fresh, ran=False)
        return True

    def may_try_again(self, what: Item | Env) -> bool:
        """Whether a cell or an environment has tries left, and the user has not asked for the end."""
        return what.tries < self.experiment.job.retry.tries and not self.control.finishing.is_set()

    def put_off(self, what: Item | Env) -> str:
        """Have something tried again after a wait; returns what to say of it."""
        retry = self.experiment.job.retry
        wait = wait_before(retry, what.tries)
        what.not_before = time.monotonic() + wait
        return f"Try {what.tries + 1} of {retry.tries} in {wait:.0f} s."

    # ---- building

    def build(self) -> None:
        """Build and delete until there is nothing left of both; for a thread, of which there may be several."""
        while True:
            with self.changed:
                while (found := self._next()) is None:
                    if self._nothing_left():
                        return
                    self.changed.wait(POLL_SECONDS)
            env, todo = found
            todo(env)
            self.notify()

    def ensure(self, version: str, control: Control, label: str) -> Interpreter:
        """The interpreter of a version's environment, built if it is not there, and mended if somebody changed it.

        While it is built, and only then, the board says so of the cell `label`, and how much is on the disk by now.
        """
        with contextlib.ExitStack() as building:
            watched = False

            def report(text: str) -> None:
                nonlocal watched
                self.board.note(text)
                self.board.phase(label, "building the environment")
                if not watched:  # a build may have several things to say
                    watched = True
                    building.enter_context(self._measured(label))

            found = self.experiment.environment(version)
            return found.ensure(report, self.experiment.job.deadlines.install, control)

    @contextlib.contextmanager
    def _measured(self, label: str) -> Iterator[None]:
        """Say each second what has been downloaded and installed, as far as the disk shows it."""
        root = self.experiment.home.root
        before, over = shutil.disk_usage(root).free, threading.Event()

        def watch() -> None:
            while not over.wait(1.0):
                written = max(0, before - shutil.disk_usage(root).free)
                self.board.progress(label, f"{written / 1e9:.1f} GB written")

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def ended(self, env: Env) -> None:
        """Let go of an environment whose last cell has ended; `changed` is held."""
        if env.open or env.state == "gone":
            return
        env.state = "gone"
        if env.used is not None:
            env.used.release()
        if self.evict_after and env.interpreter is not None:
            self._to_evict.append(env)

    def release(self) -> None:
        """Let other sweeps delete what this one has used."""
        for env in self.envs.values():
            if env.used is not None:
                env.used.release()

    def _nothing_left(self) -> bool:
        if self.control.stopping.is_set():
            return True
        if self._to_evict or self._evicting:
            return False
        if self.control.finishing.is_set():
            # An environment whose last cell is still running is evicted afterwards.
            return not (self.evict_after and any(item.running for item in self.items))
        return not self.open

    def _next(self) -> tuple[Env, Callable[[Env], None]] | None:
        if self._to_evict:
            self._evicting += 1
            return self._to_evict.pop(0), self._evict
        if self.control.finishing.is_set():
            return None
        envs = self.envs.values()
        waiting = sum(
            env.state == "building" or (env.state == "ready" and env.open and not env.started) for env in envs
        )
        if waiting >= self.ahead:
            return None
        now = time.monotonic()
        for env in envs:
            if env.state == "wanted" and env.open and env.not_before <= now:
                for item in env.items:
                    self.take_if_settled(item)
                if env.open:
                    env.state = "building"
                    return env, self._build
        return None

    def _build(self, env: Env) -> None:
        experiment, version = self.experiment, env.version
        if reason := experiment.unsupported(version):
            with self.changed:
                env.state, env.failure = "failed", BuildFailed(reason, "unsupported", "")
            return
        label = next(item.label for item in env.items if item.cell is None)
        try:
            env.used = env.used or experiment.environment(version).hold()
            interpreter = self.ensure(version, self.building, label)
        except BuildFailed as error:
            self._failed(env, error)
            return
        except Stopped:
            with self.changed:
                env.state = "gone"
            return
        with self.changed:
            env.interpreter, env.state = interpreter, "ready"

    def _failed(self, env: Env, error: BuildFailed) -> None:
        with self.changed:
            env.tries += 1
            again = error.cause in INFRASTRUCTURE and self.may_try_again(env)
            if again:
                env.state, said = "wanted", self.put_off(env)
            else:
                env.state, env.failure = "failed", error
        if again:
            self.board.note(f"{error} {said}")

    def _evict(self, env: Env) -> None:
        home, note = self.experiment.home, self.board.note
        try:
            found = self.experiment.environment(env.version).there(self.experiment.device.flavour)
            with self.changed:
                wanted = [self.experiment.lock(other.version) for other in self.envs.values() if other.open]
            if found is None:
                return
            freed = evict(home, found, wanted)
            if freed is None:
                note(f"{env.version}: another sweep uses the environment, which is left to it")
            else:
                note(f"{env.version}: deleted the environment ({freed / 2**30:.1f} GiB freed)")
        finally:
            with self.changed:
                self._evicting -= 1


def wait_before(retry: Retry, tries: int) -> float:
    """Seconds to wait after the `tries`-th try: twice as long each time, up to a limit, and never quite the same."""
    longest = min(retry.longest_wait_seconds, retry.first_wait_seconds * 2.0 ** (tries - 1))
    # So that processes that failed together do not come back together.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311
