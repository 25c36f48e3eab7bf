"""`python -m harness.worker CELL.json OUT_DIR`: run one job in this interpreter's environment and say how it ended.

The result is `OUT_DIR/result.json`, written last and renamed into place. `OUT_DIR/phase` names the phase that is under
way, so that whoever supervises this process knows where it stood when it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from harness.worker.outcomes import Ended, ending


def _write(path: str, text: str) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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

    def progress(self, text: str) -> None:
        """Say how far the phase is, once a second; nobody's result depends on whether that can be written."""
        now = time.perf_counter()
        if now - self._said < 1.0:
            return
        self._said = now
        with contextlib.suppress(OSError), open(self._progress, "w", encoding="utf-8") as file:
            file.write(text)


def _run(cell: dict[str, Any], out_dir: str, phases: Phases, result: dict[str, Any]) -> None:
    with phases("import"):
        try:
            from harness.worker import index, provenance
            from harness.worker.notes import Notes
        except ImportError as error:
            raise Ended("import_failed", f"{type(error).__name__}: {error}") from error
    notes = Notes()
    # Here from the start, so that it is in the result however the job ends.
    result["not_captured"] = notes.reasons
    result["provenance"] = provenance.collect(cell, notes)
    job = cell.get("job", "index")
    # Not imported for the main job, so that what it loads does not depend on the others.
    if job == "search":
        from harness.worker import search

        make = search.run
    elif job == "train":
        from harness.worker import train

        make = train.run
    elif job == "index":
        make = index.run
    else:
        from harness.worker import jobs

        result.update(jobs.run(job, cell, out_dir, phases))
        return
    index.require_device(cell)
    result.update(make(cell, out_dir, phases, notes))
    result["provenance"].update(provenance.after(cell, notes))


def main(argv: list[str]) -> int:
    """Run a cell; exit status 0 when a result was written, whatever the outcome in it."""
    if len(argv) != 3:
        print("usage: python -m harness.worker CELL.json OUT_DIR", file=sys.stderr)
        return 2
    cell_path, out_dir = argv[1:]
    os.makedirs(out_dir, exist_ok=True)
    with open(cell_path, encoding="utf-8") as file:
        cell = json.load(file)
    phases = Phases(out_dir)
    result: dict[str, Any] = {"schema": 1, "outcome": "ok", "reason": ""}
    started = time.perf_counter()
    try:
        _run(cell, out_dir, phases, result)
    except Exception as error:
        traceback.print_exc()
        outcome, reason = ending(error, phases.current)
        result.update(outcome=outcome, reason=reason)
    result["phase"] = phases.current
    result["seconds"] = {**phases.seconds, "total": round(time.perf_counter() - started, 4)}
    _write(os.path.join(out_dir, "result.json"), json.dumps(result, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
