"""What the harness asks of Slurm: submit an array, say where jobs are, cancel.

Only the controller is asked, never the accounting database, which small clusters do not have; `last_words` reads logs.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfrastructureError, UsageError

ENDED = frozenset(
    {
        "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL",
        "PREEMPTED", "REVOKED",
    }
)  # fmt: skip
"""States of a job that will not run any more. Every other state, also one of a newer Slurm, is taken for alive."""
GONE = "GONE"
"""Our own word: the controller answers, and does not know the job any more."""

# Why a job that waits will wait for ever. Other reasons, such as Resources or Priority, pass.
HOPELESS = frozenset(
    {
        "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
        "AccountNotAllowed", "QOSNotAllowed", "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit",
        "QOSMaxGRESPerJob", "QOSMaxCpuPerJobLimit",
    }
)  # fmt: skip
_KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER"})
_RESERVED = frozenset({"array", "job_name", "output", "error", "signal", "open_mode", "requeue", "wrap", "ntasks"})
_TEMPORARY = re.compile(
    r"Unable to contact slurm controller|temporarily unable|Resource temporarily|Socket timed out|SubmitJobsLimit|"
    r"MaxSubmit|MaxJobCount|submit limit|job submit limit|Zero Bytes were transmitted|Connection refused",
    re.IGNORECASE,
)
_STARTED = re.compile(r"^harness: cell ", re.MULTILINE)
_WORDS = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON (\S+) CANCELLED AT \S+(?: DUE TO ([A-Z ]+[A-Z]))?")
_OOM = re.compile(r"oom[-_]kill|Exceeded job memory limit|Out Of Memory", re.IGNORECASE)


class Refused(InfrastructureError):  # noqa: N818 - not an error where the controller is only away for a moment
    """sbatch did not take a submission.

    Attributes:
        temporary: it may take it later, or take fewer jobs at once.
    """

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


@dataclass(frozen=True)
class Job:
    """Where one task of an array is.

    Attributes:
        state: Slurm's word, such as `RUNNING`, or `GONE`.
        reason: why it waits, or what went wrong; empty for none.
        node: where it runs or ran.
    """

    state: str
    reason: str = ""
    node: str = ""

    @property
    def held(self) -> bool:
        """Whether its node could not start it, so that Slurm holds it until somebody releases it."""
        # Slurm has written this with blanks and with underscores.
        return self.reason.replace("_", " ").lower() == "launch failed requeued held"


def require_slurm() -> None:
    """Check that this is a machine from which jobs can be submitted.

    Raises:
        UsageError: it is not.
    """
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise UsageError(
            "--executor slurm: sbatch and squeue are not on the PATH; run this on a login node of the cluster, or use "
            "--executor local."
        )


def check_options(options: Mapping[str, str]) -> None:
    """Refuse options of sbatch that the harness itself sets.

    Raises:
        UsageError: with the name.
    """
    for name in options:
        if name.replace("-", "_") in _RESERVED:
            raise UsageError(f"--slurm {name}=…: the harness sets this option of sbatch itself: leave it out.")


def submit_array(
    folder: Path, name: str, command: Sequence[str], count: int, options: Mapping[str, str], at_once: int = 1
) -> str:
    """Submit `count` jobs that run the same command line as one array; returns the array's job id.

    A job is a command line and the number of its task, so that a submission is complete the moment sbatch has taken it,
    whatever happens to this process.

    Args:
        folder: gets the log of each task; on a shared filesystem.
        name: of the jobs; unique, since it finds them again after a crash.
        command: replaces the batch script's shell, so that signals reach it.
        count: number of tasks.
        options: of sbatch beside those that this sets (`check_options`), by name; an empty one has no value.
        at_once: how many of the tasks may run at a time.

    Raises:
        Refused: sbatch said no.
    """
    wanted = {
        **options,
        "job-name": name,
        "array": f"0-{count - 1}%{min(count, at_once)}",
        "output": str(log_path(folder.absolute(), "%A", "%a")),
        "open-mode": "append",
    }
    done = subprocess.run(
        ["sbatch", "--parsable", *(f"--{name}={value}" if value else f"--{name}" for name, value in wanted.items())],
        # No srun: it would start the job in a step of its own, with one core unless it is told otherwise once more.
        input=f"#!/bin/sh\nexec {shlex.join(command)}\n",
        # Of a job that this process runs in, sbatch would take the variables for wishes.
        env={n: value for n, value in os.environ.items() if not n.startswith("SLURM_") or n in _KEPT},
        capture_output=True,
        text=True,
        check=False,
    )
    job = re.search(r"^(\d+)(?:;|$)", done.stdout, re.MULTILINE)
    if done.returncode or job is None:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        said = " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines)
        raise Refused(f"sbatch refused the jobs: {said}.", temporary=bool(_TEMPORARY.search(said)))
    return job[1]


def log_path(folder: Path, job: str, task: int | str) -> Path:
    """The log of one task."""
    return folder / f"{job}_{task}_0_log.out"


def states(jobs: Sequence[str]) -> dict[str, Job] | None:
    """Where the tasks of arrays are, by `JOB_TASK`; None when the controller does not answer.

    A task that is missing from the answer has ended long enough ago to be forgotten.
    """
    if not jobs:
        return {}
    # Reason and node come last: a reason is a sentence at times.
    done = _ask(["squeue", "--noheader", "--array", "--states=all", "--jobs", ",".join(jobs), "--format=%i|%T|%N|%r"])
    if done is None or (done.returncode and "Invalid job id" not in done.stderr):
        return None
    found = {}
    for line in done.stdout.splitlines():
        task, state, node, reason = (*line.split("|", 3), "", "", "")[:4]
        found[task.strip()] = Job(state.strip(), "" if reason.strip() == "None" else reason.strip(), node.strip())
    return found


def find(name: str) -> str | None:
    """Id of the array that was submitted under a name; empty if there is none, None when nobody answers."""
    done = _ask(["squeue", "--noheader", "--states=all", "--name", name, "--format=%F"])
    if done is None or done.returncode:
        return None
    return next(iter(done.stdout.split()), "")


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that ended already do not matter."""
    if jobs:
        _ask(["scancel", "--quiet", *jobs])


def largest_array() -> int:
    """How many tasks an array may have here; Slurm's default where the controller does not say."""
    done = _ask(["scontrol", "show", "config"])
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE) if done else None
    # MaxArraySize is one more than the largest index.
    return max(1, int(found[1]) - 1) if found else 1000


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def last_words(log: Path) -> Job:
    """How a job ended by what slurmstepd wrote into its log; `GONE` where it wrote nothing.

    Only what comes after the last start of the job counts: a job that was requeued appends to its log.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Job(GONE)
    starts = [match.start() for match in _STARTED.finditer(text)]
    text = text[starts[-1] :] if starts else text
    if found := list(_WORDS.finditer(text)):
        node, why = found[-1][1], found[-1][2] or ""
        known = {"TIME LIMIT": "TIMEOUT", "PREEMPTION": "PREEMPTED", "NODE FAILURE": "NODE_FAIL"}
        return Job(known.get(why, "CANCELLED"), why.lower(), node)
    return Job("OUT_OF_MEMORY") if _OOM.search(text) else Job(GONE)


SETTLE_SECONDS = 60.0
"""How long a job may be gone before its last word on the shared filesystem counts as missing (NFS shows files late)."""
PATIENCE_SECONDS = 3600.0
"""How long the controller may be silent, or refuse jobs, before a follower gives up."""
