"""What Slurm's word for the end of a job means for its cell."""

from __future__ import annotations

from harness.running.slurm.ledger import End
from harness.running.slurm.queue import GONE, Job

UNSAID = frozenset({"COMPLETED", "FAILED", GONE})
"""States that do not say why there is no last word of the node."""


def verdict(name: str, seen: Job, minutes: int, run: tuple[str, str]) -> End:
    """What Slurm's word for the end of a job, of which the node said nothing, means for its cell."""
    host, phase = run
    where = f" on {seen.node or host}" if seen.node or host else ""
    when = f" in phase {phase}" if phase else ""
    if seen.state in {"TIMEOUT", "DEADLINE"}:
        limit = f" of {minutes} minutes" if minutes else ""
        reason = f"Slurm ended job {name}{where} at its time limit{limit}{when}."
        return End("final", "timeout", reason)
    if seen.state == "OUT_OF_MEMORY":
        reason = f"Slurm killed job {name}{where}{when} for want of memory; --slurm mem=64G asks for more."
        return End("final", "out_of_memory", reason)
    how = {
        "CANCELLED": f"Job {name} was cancelled{where}{when}.",
        "PREEMPTED": f"Job {name} was preempted{where}{when}.",
        "NODE_FAIL": f"The node of job {name} failed{where}{when}.",
        "BOOT_FAIL": f"The node of job {name} did not boot{where}.",
        "REVOKED": f"Job {name} was revoked{where}.",
        "FAILED": f"Job {name} failed{where}{when} without a word of the harness{_because(seen)}.",
        "COMPLETED": f"Job {name} ended{where}{when} without a word of the harness.",
        GONE: f"Job {name} vanished{where}{when}: neither Slurm nor its log knows how it ended.",
    }
    return End("again", reason=how.get(seen.state, f"Job {name} ended as {seen.state}{where}{when}."))


def _because(seen: Job) -> str:
    return f" ({seen.reason})" if seen.reason else ""
