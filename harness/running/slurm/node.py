"""What runs on a node of a cluster: `python -m harness.running.slurm.node ARRAY` runs one cell of an array.

With `FOLDER --device WANTED` it says what the node is, so that a login node without a GPU can plan.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.environments.device import Device, choose_device, usable_cores
from harness.errors import HarnessError
from harness.flock import try_hold
from harness.inputs.jobs import Retry
from harness.running.experiment import Experiment
from harness.running.plan import plan_cells
from harness.running.progress import Board
from harness.running.slurm.record import (
    ANSWER,
    REACH,
    End,
    Task,
    read_array,
    read_end,
    write_end,
    write_record,
    write_run,
)
from harness.running.sweep import LocalExecutor

MAX_RESTARTS = 5
"""How often Slurm may put a job back into the queue by itself, after which the cell is given up."""


class _NodeBoard(Board):
    """Writes each phase where the followers find it, and into the job's log."""

    def __init__(self, task: Task, host: str) -> None:
        super().__init__([])
        self._task, self._host = task, host

    def phase(self, label: str, phase: str) -> None:
        super().phase(label, phase)
        write_run(self._task, self._host, phase)


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


def main(arguments: list[str]) -> int:
    """Run what Slurm started this process for."""
    # Slurm's SIGTERM must stop the job under way and clean up behind it, as Ctrl-C does elsewhere.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(arguments[0])
    if arguments[1:2] == ["--device"]:
        return _answer(folder, arguments[2])
    if (array := read_array(folder)) is None:
        sys.stdout.write(f"harness: {folder} was withdrawn; nothing to do.\n")
        return 0
    task = Task(array, int(os.environ["SLURM_ARRAY_TASK_ID"]))
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    # Followers look for the start of this line to tell what a log says of this run from what it says of earlier ones.
    job = f"job {os.environ.get('SLURM_ARRAY_JOB_ID')}_{task.number}"
    sys.stdout.write(f"harness: cell {task.entry.key} ({task.entry.version}) on {host}, {job}, restart {restarts}\n")
    sys.stdout.flush()
    if read_end(task):
        sys.stdout.write("harness: it is concluded already; nothing to do.\n")
        return 0
    write_run(task, host, "start")
    end: End | None = None
    told = told_to_stop()
    try:
        end = _run(task, host, restarts)
    except KeyboardInterrupt:
        pass
    except HarnessError as error:
        end = End("again", reason=f"{error}")
    except Exception as error:  # noqa: BLE001 - a follower waits for a word, whatever happened
        traceback.print_exc()
        end = End(
            "again", reason=f"The harness failed on {host} ({type(error).__name__}: {error}); see the cell's log."
        )
    if end is None or (told() and end.state != "stored"):
        # Slurm stopped this job, and the cell with it. Why, Slurm knows, and the followers ask it.
        sys.stdout.write("harness: stopped by a signal.\n")
        return 128 + signal.SIGTERM
    said = write_end(task, end)
    sys.stdout.write(f"harness: {said.state} {said.outcome} {said.reason}".rstrip() + "\n")
    return 0


def _run(task: Task, host: str, restarts: int) -> End:
    array, entry = task.array, task.entry
    if restarts > MAX_RESTARTS:
        return End("final", "lost", f"Slurm put the job back into the queue {restarts} times, the last time on {host}.")
    experiment = Experiment(array.selection)
    if wrong := mismatch(experiment, host):
        return wrong
    # One try: what the machine spoilt is tried again as another job, perhaps on another node.
    experiment.job = experiment.job.model_copy(update={"retry": Retry(tries=1)})
    planned = plan_cells(experiment, [entry.version], {entry.version: entry.repeat})[-1]
    if planned.spec.key != entry.key:
        what = "the collection, the checkpoint, the lock or matrix.yaml"
        return End("final", "lost", f"On {host} this is another cell than was submitted: {what} changed meanwhile.")
    if planned.stored is not None and planned.stored.finished == entry.replaces:
        planned = replace(planned, run=True)
    cells = LocalExecutor().run(experiment, [planned], _NodeBoard(task, host), evict_after=False)
    lost = [cell for cell in cells if cell.details.get("cause") == "lost"]
    if lost or not cells:
        return End("again", reason=lost[0].reason if lost else f"The run on {host} was stopped.")
    return End("stored")


def mismatch(experiment: Experiment, host: str) -> End | None:
    """How this node differs from the one that the cell was planned for."""
    here = choose_device(experiment.device.kind)
    if here.identity != experiment.device.identity:
        return End(
            "again",
            reason=f"{host} is {here.identity}, but the cell is of {experiment.device.identity}: name one kind of "
            "node, such as --slurm gres=gpu:h100:1 or --slurm constraint=NAME.",
            cause="device",
        )
    if experiment.device.kind == "cpu" and experiment.job.threads > usable_cores():
        name, asked = experiment.job.NAME, experiment.job.threads
        reason = f"The job got {usable_cores()} cores on {host}, but jobs.{name}.threads is {asked}."
        return End("final", "lost", reason)
    return None


def _answer(folder: Path, wanted: str) -> int:
    """Say which device this node has, and whether the asker's lock is seen from here."""
    answer: dict[str, Any] = {"host": os.environ.get("SLURMD_NODENAME") or socket.gethostname()}
    try:
        device: Device = choose_device(wanted)
        answer["identity"] = device.identity
        held = try_hold(folder / REACH)
        answer["locks"] = held is None
        if held:
            held.release()
    except HarnessError as error:
        answer["error"] = str(error)
    write_record(folder / ANSWER, answer)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
