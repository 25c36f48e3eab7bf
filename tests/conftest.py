"""Quick tests first: a mistake shows in seconds, before torch environments are built or a cluster is started."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, however slow the machine is just now; chance has its place in `python -m tests.fuzz`.
settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# What decides elsewhere about colours and widths of what is printed; the tests print to nobody's terminal.
for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)

_LATER = ("slow", "slurm", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests by the most costly marker they carry; within a kind the order of the files stays."""
    items.sort(
        key=lambda item: max((1 + _LATER.index(mark) for mark in _LATER if item.get_closest_marker(mark)), default=0)
    )
