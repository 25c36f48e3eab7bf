"""Quick tests first: a mistake shows in seconds, before torch environments are built or a cluster is started.

What asks a real torch comes last, when the integration tests have built one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.torch_oracle import torch_python

# The same examples every time, however slow the machine is just now; chance has its place in `python -m tests.fuzz`.
settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# What decides elsewhere about colours and widths of what is printed; the tests print to nobody's terminal.
for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)

# A background job of a shell that has no job control ignores Ctrl-C, and all that it starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LATER = ("slow", "slurm", "integration")


@pytest.fixture(scope="session")
def torch_interpreter() -> Path:
    """An interpreter with torch; the tests' own has none."""
    found = torch_python()
    if found is None:
        pytest.skip("no torch here: set HARNESS_TORCH_PYTHON, or build an environment with `harness index`")
    return found


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests by the most costly thing they need; within a kind the order of the files stays."""
    items.sort(key=_cost)
    for item in items:
        if item.get_closest_marker("integration"):
            # Whichever of them comes first builds the environments, whose downloads are several GB.
            item.add_marker(pytest.mark.timeout(3600))
        # What the tests of a file share is made once, and in their order: one process runs those of one cost.
        item.add_marker(pytest.mark.xdist_group(f"{item.path} {_cost(item)}"))


def _cost(item: pytest.Item) -> int:
    if "torch_interpreter" in getattr(item, "fixturenames", ()):
        return 1 + len(_LATER)
    return max((1 + _LATER.index(mark) for mark in _LATER if item.get_closest_marker(mark)), default=0)
