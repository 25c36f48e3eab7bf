"""Faults of a cluster, on a real Slurm of one node: what `test_slurm.py` does to it, as rows of the table."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable

from tests.reliability.bench import ROOT, Bench, Fault, Skipped, expect
from tests.support.slurm_cluster import missing

SECONDS = 600
TESTS = {
    "a_job_that_was_cancelled_is_submitted_again": Fault(
        "scancel of a job",
        "`scancel` while it runs, on a real slurmctld and slurmd",
        "submitted again, `ok`",
        lambda _b: "",
    ),
    "a_job_that_is_cancelled_each_time_ends_as_lost_with_the_reason": Fault(
        "scancel of a job each time", "`scancel` at both tries", "`lost`, with the reason", lambda _b: ""
    ),
    "a_job_that_slurm_ends_at_its_time_limit_is_a_timeout_and_is_not_tried_again": Fault(
        "Slurm's time limit", "Slurm ends the job at its limit", "`timeout`, not tried again", lambda _b: ""
    ),
    "a_job_goes_on_while_slurmd_is_killed_and_started_again": Fault(
        "slurmd is killed while a job runs",
        "kill -9, then slurmd is started again",
        "the job goes on, `ok`",
        lambda _b: "",
    ),
    "a_job_whose_node_lost_power_is_run_again_by_slurm": Fault(
        "node loses power", "kill -9 of slurmd and of all it runs of a job", "Slurm runs it again, `ok`", lambda _b: ""
    ),
    "a_controller_that_is_away_for_a_moment_ends_nothing": Fault(
        "controller is restarted",
        "slurmctld is stopped and started again meanwhile",
        "nothing ends, nothing is submitted twice",
        lambda _b: "",
    ),
    "a_sweep_whose_terminal_is_killed_is_picked_up_again": Fault(
        "submitting terminal is lost",
        "kill -9 of `harness sweep --executor slurm`",
        "`--attach` goes on with the jobs",
        lambda _b: "",
    ),
    "a_submission_whose_end_was_not_noted_is_found_by_its_name_and_not_made_again": Fault(
        "killed in the middle of submitting",
        "kill -9 after sbatch and before its number is noted",
        "the jobs are found by their name; none twice",
        lambda _b: "",
    ),
}
"""Name of a test, without `test_`, to the row that it is; the row's own `run` is put in below."""


@functools.cache
def outcomes() -> dict[str, str]:
    """Run the tests, all at once since they share a cluster; test to `PASSED`, or what else pytest says and why."""
    reason = missing()
    if reason:
        raise Skipped(reason)
    names = [f"tests/running/slurm/test_slurm.py::test_{name}" for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *names],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    said = re.findall(r"^(\w+) tests/test_slurm\.py::test_(\w+)(.*)", done.stdout, re.MULTILINE)
    return {name: f"{outcome}{reason}" for outcome, name, reason in said}


def _passes(name: str) -> Callable[[Bench], str]:
    def run(_bench: Bench) -> str:
        outcome = outcomes().get(name, "missing")
        if outcome == "SKIPPED":
            raise Skipped("this Slurm cannot be started here")
        expect(outcome == "PASSED", f"tests/running/slurm/test_slurm.py::test_{name}: {outcome}")
        return f"as expected, by `test_{name}`"

    return run


FAULTS = tuple(
    Fault(fault.name, fault.injected, fault.expected, _passes(name), mends=False) for name, fault in TESTS.items()
)
