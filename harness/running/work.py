"""What the threads of a sweep share: its cells, its environments, and how long to wait before a try is made again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.environments.supervise import Control
from harness.environments.uv import BuildFailed
from harness.flock import Held
from harness.inputs.matrix import Retry
from harness.running.causes import is_infrastructure
from harness.running.experiment import Experiment
from harness.running.plan import Planned
from harness.running.progress import Board
from harness.store.cell import LEVELS, Cell
from harness.store.store import level

POLL_SECONDS = 0.2


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
    environment: Environment | None = None
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
    """The cells and the environments of one sweep; `changed` guards every field of them."""

    def __init__(self, experiment: Experiment, plan: Sequence[Planned], board: Board) -> None:
        self.experiment, self.board = experiment, board
        self.changed = threading.Condition()
        self.control = Control()
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


def wait_before(retry: Retry, tries: int) -> float:
    """Seconds to wait after the `tries`-th try: twice as long each time, up to a limit, and never quite the same."""
    longest = min(retry.longest_wait_seconds, retry.first_wait_seconds * 2.0 ** (tries - 1))
    # So that processes that failed together do not come back together.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311
