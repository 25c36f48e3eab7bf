"""The jobs beside those that make a cell (`index`, `search`, `train`), by name."""

from __future__ import annotations

from typing import Any

from harness.worker import probe, replay, steps
from harness.worker.outcomes import Ended

JOBS: dict[str, replay.Job] = {
    "record": replay.record,
    "replay": replay.replay,
    "trim": replay.trim,
    "step": replay.step,
    "tensorize": steps.tensorize,
    "probe": probe.probe,
}


def run(name: str, cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Run a job by name; returns what belongs in its result.

    Raises:
        Ended: `unsupported` for a name that this worker does not know.
    """
    if name not in JOBS:
        raise Ended(
            "unsupported", f"This worker knows no job {name!r}; it knows index, search, train, {', '.join(JOBS)}."
        )
    return JOBS[name](cell, out_dir, phases)
