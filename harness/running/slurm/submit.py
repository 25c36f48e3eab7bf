"""What a job asks Slurm for, and for how long."""

from __future__ import annotations

import math
from typing import Any

from harness.inputs.matrix import IndexJob
from harness.running.slurm.record import Options

MARGIN_SECONDS = 1800
"""Added to a cell's own deadlines for a job's time limit: waiting for another node's environment, storing the cell."""
BACKOFF_SECONDS = 30
"""Before the second try of a lost job; four times as long before each later one."""


def wall_minutes(job: IndexJob) -> int:
    """Time limit of a cell's job, where the user names none."""
    deadlines = job.deadline_seconds
    return math.ceil((deadlines.install + deadlines.import_ + deadlines.index + MARGIN_SECONDS) / 60)


def plain_options(options: Options) -> dict[str, str]:
    """The user's own options in submitit's words."""
    return {name.replace("_", "-"): value for name, value in options.extra.items()}


def resources(options: Options, kind: str, threads: int, minutes: int) -> dict[str, Any]:
    """What one job asks for, in submitit's words: one GPU unless it runs on a CPU, and a core for each thread."""
    asked: dict[str, Any] = {"time": minutes, "cpus_per_task": threads, "nodes": 1, "ntasks_per_node": 1}
    if options.partition:
        asked["partition"] = options.partition
    if kind != "cpu" and not any(name.startswith(("gres", "gpus")) for name in options.extra):
        asked["gres"] = "gpu:1"
    return asked
