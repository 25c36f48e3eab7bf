"""What a process of the worker says of itself in files: its phase, how far it is, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any


def write_result(folder: str, result: dict[str, Any]) -> None:
    """Write a folder's `result.json`, whole or not at all."""
    path = os.path.join(folder, "result.json")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(json.dumps(result, indent=1, sort_keys=True))
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


class Phases:
    """Wall seconds per phase; the current phase is also written to a file for the supervisor."""

    def __init__(self, out_dir: str) -> None:
        self.seconds: dict[str, float] = {}
        self._path = os.path.join(out_dir, "phase")
        self.current = "start"
        self._progress, self._said = os.path.join(out_dir, "progress"), 0.0

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the `with` block as phase `name`."""
        self.current = name
        with contextlib.suppress(OSError):
            os.unlink(self._progress)
        with open(self._path, "w", encoding="utf-8") as file:
            file.write(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 4)

    def follow(self) -> None:
        """Take for the current phase what another process of the job has written to the file."""
        with open(self._path, encoding="utf-8") as file:
            self.current = file.read()

    def progress(self, text: str) -> None:
        """Say how far the phase is, once a second; nobody's result depends on whether that can be written."""
        now = time.perf_counter()
        if now - self._said < 1.0:
            return
        self._said = now
        with contextlib.suppress(OSError), open(self._progress, "w", encoding="utf-8") as file:
            file.write(text)
