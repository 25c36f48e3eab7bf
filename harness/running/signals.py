"""Signals as wishes: Ctrl-C and SIGTERM in a sweep, and Slurm's in a node's job."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.environments.supervise import Control

_TERM_PATIENCE = 10.0
"""Seconds that a running job has after SIGTERM: a scheduler kills 30 s after it, and stopping a job may take 10."""


@dataclass
class Asked:
    """What signals asked for.

    Attributes:
        times: how many came.
        until: monotonic time at which everything is to have ended.
    """

    times: int = 0
    until: float = float("inf")

    @property
    def over(self) -> bool:
        """Whether running cells are to be ended now."""
        return time.monotonic() >= self.until


@contextmanager
def wishes(control: Control) -> Iterator[Asked]:
    """Take Ctrl-C and SIGTERM as wishes while the `with` block lasts; in the main thread only."""
    asked = Asked()
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


def told_to_stop() -> Callable[[], bool]:
    """Watch for signals; the function returned says whether Slurm told this process to stop.

    The executor has handlers of its own, so that a handler here would not be called.
    """
    ours, pythons = socket.socketpair()
    ours.setblocking(False)
    pythons.setblocking(False)
    signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    seen = bytearray()

    def told() -> bool:
        with contextlib.suppress(BlockingIOError):
            while more := ours.recv(256):
                seen.extend(more)
        assert pythons.fileno() >= 0
        return bool({signal.SIGTERM, signal.SIGINT} & set(seen))

    return told
