"""Runs that nobody is watching any more: what became of them is stored, and their folders are cleared away."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.environments.counterfactual import abandoned, remove_abandoned
from harness.environments.supervise import OWNER, read
from harness.flock import Held, try_hold
from harness.home import Home
from harness.running.causes import tried
from harness.running.job import log_tail
from harness.store.audit import LEFTOVER, Finding
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store

RECORD = "run.json"
"""In a run's folder: which cell it is of."""
_OF_BLAME = "of a `blame` that was killed"


def this_process() -> dict[str, Any]:
    """What tells this process from every other: number, host, and when it began to run a job."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": began}


def recover(home: Home, store: Store, say: Callable[[str], None] = lambda _text: None) -> list[Cell]:
    """Find runs whose harness died, record them as `lost`, and delete what they left; return the lost cells.

    A run whose owner lives, here or on another machine of a shared filesystem, is left alone.
    """
    lost = []
    for run in sorted(home.runs.iterdir()) if home.runs.is_dir() else ():
        if held := _abandoned(run):
            with held:
                if cell := _lost_cell(store, run):
                    lost.append(cell)
                    say(f"{cell.label}: {cell.reason}")
                shutil.rmtree(run, ignore_errors=True)
    return lost


def _abandoned(run: Path) -> Held | None:
    """The lock of a run's folder if its owner is gone."""
    try:
        # A folder that has just been made does not have its lock yet.
        if not (run / OWNER).exists() and time.time() - run.stat().st_mtime < 60:
            return None
        return try_hold(run / OWNER) if run.is_dir() else None
    except OSError:
        return None


def _lost_cell(store: Store, run: Path) -> Cell | None:
    try:
        note = json.loads((run / RECORD).read_text(encoding="utf-8"))
        spec = CellSpec.of(note["spec"])
        if note["store"] != str(store.root):
            return None
        there = store.latest(spec.key)
        # It may have died after its cell was stored, or another harness may have run the cell since.
        if there is not None and (there.details.get("run") == run.name or there.finished > note["started"]):
            return None
        phase = read(run / "out" / "phase") or "start"
        reason = (
            f"The harness (process {note['pid']} on {note['host']}) ended while the job was in phase {phase}; the job "
            "was ended with it."
        )
        details = {"cause": "lost", "run": run.name, "log_tail": log_tail(run / "log.txt"), "tried": tried(there)}
        cell = Cell.of(spec, "lost", reason, phase=phase, capture=str(note["capture"]), details=details)
        return store.put(cell, log=run / "log.txt")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def left_runs(home: Home) -> list[Finding]:
    """Folders of runs, and of environments that `blame` made, whose harness is gone."""
    found = []
    for run in sorted(home.runs.iterdir()) if home.runs.is_dir() else ():
        if (run / OWNER).exists() and (held := try_hold(run / OWNER)):
            held.release()
            found.append(Finding(LEFTOVER, f"runs/{run.name}", "of a harness that ended before its job"))
    found += [Finding(LEFTOVER, f"{path.parent.name}/{path.name}", _OF_BLAME) for path, _held in abandoned(home)]
    return found


def collect_runs(home: Home, store: Store, *, dry_run: bool = False) -> list[Finding]:
    """Record runs of harnesses that died as `lost`; remove what they left, and the lock files that nobody holds."""
    found = left_runs(home)
    if dry_run:
        return found
    recover(home, store)
    remove_abandoned(home)
    cells = home.locks / "cells"
    for path in sorted(cells.glob("*.lock")) if cells.is_dir() else ():
        if held := try_hold(path):
            # Whoever opened the file before and locks it after this finds that it is not the file of that name.
            with held:
                path.unlink(missing_ok=True)
    return found
