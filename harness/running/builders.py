"""Environments being built while other versions' jobs run."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.environments.uv import BuildFailed
from harness.flock import Held
from harness.running.plan import Planned
from harness.store.cell import Cell

MOST_BUILDERS = 4
POLL_SECONDS = 0.2


@dataclass
class Item:
    """One cell of the plan."""

    planned: Planned
    label: str
    cell: Cell | None = None
    running: bool = False
    tries: int = 0
    not_before: float = 0.0


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
