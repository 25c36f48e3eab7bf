"""The GPUs of this machine that cells may run on, and who else is on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.environments.device import GPUS, Device, query_driver, visible
from harness.environments.supervise import Control, wait_for
from harness.errors import UsageError
from harness.flock import try_hold, whose
from harness.home import Home

JOBS_VARIABLE = "HARNESS_JOBS"
MOST_JOBS = 64


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: as nvidia-smi numbers it, and as CUDA does with CUDA_DEVICE_ORDER=PCI_BUS_ID.
        uuid: the driver's name for it.
        identity: as in `Device.identity`.
    """

    index: str
    uuid: str
    identity: str


@dataclass(frozen=True)
class Process:
    """A process on a GPU, as nvidia-smi lists it."""

    pid: int
    name: str
    mebibytes: int | None


def visible_gpus() -> list[Gpu]:
    """The GPUs that a job of this process could see, by bus; empty without a driver and where a MIG slice is named."""
    if "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        return []
    return [Gpu(*one) for one in visible(query_driver(GPUS, 4))]


def choose_gpus(device: Device, wanted: str | None) -> list[Gpu]:
    """The GPUs that cells of `device` run on: those of its model, or those of them that `wanted` names, as `0,2`.

    An empty list leaves the choice to CUDA, as for a CPU and for a slice of a GPU.

    Raises:
        UsageError: `wanted` names a GPU that is not there, or another model.
    """
    if device.kind == "cpu":
        if wanted not in {None, "all"}:
            raise UsageError(
                f"--gpus {wanted}: the cells run on {device.identity}; leave it out, or use --device cuda."
            )
        return []
    there = [gpu for gpu in visible_gpus() if gpu.identity == device.identity]
    if wanted in {None, "all"}:
        return there
    assert wanted is not None
    by_index = {gpu.index: gpu for gpu in there}
    names = [name.strip() for name in wanted.split(",")]
    for number, name in enumerate(names):
        if name not in by_index or name in names[:number]:
            raise UsageError(
                f"--gpus {wanted}: {name!r} is not the number of one of the GPUs of this model "
                f"({device.identity}: {', '.join(by_index) or 'none'}), or is given twice."
            )
    return [by_index[name] for name in names]


def gpu_lock(home: Home, gpu: Gpu, number: int = 0) -> Path:
    """The lock of a job's place on a GPU, for whatever command of this harness its job is."""
    return home.locks / "gpus" / f"{gpu.uuid}.{number}.lock"


def jobs_at_a_time() -> int:
    """How many jobs of this harness may be on a GPU at a time; HARNESS_JOBS says so also for `sweep --jobs`.

    Raises:
        UsageError: it is not a number from 1 to 64.
    """
    wanted = os.environ.get(JOBS_VARIABLE) or "1"
    if not wanted.isdecimal() or not 1 <= int(wanted) <= MOST_JOBS:
        raise UsageError(f"{JOBS_VARIABLE} is '{wanted}'; set it to a number from 1 to {MOST_JOBS}, or unset it.")
    return int(wanted)


@contextmanager
def gpu_turn(
    home: Home, device_kind: str, say: Callable[[str], object], control: Control | None = None
) -> Iterator[list[int]]:
    """Wait until there is a place on the GPU that a job gets which is told of none, and keep it.

    A GPU has one place, or as many as HARNESS_JOBS says. For jobs that run one at a time; a sweep chooses the GPUs of
    its jobs itself.

    Args:
        home: whose jobs take turns.
        device_kind: `cpu` or `cuda`; nobody waits for a CPU, nor where the driver names no GPU.
        say: called with a sentence when it has to wait.
        control: ends the waiting.

    Yields:
        Descriptors that the job is to hold, too, lest the GPU be free before it has ended.

    Raises:
        Stopped: `control` said so.
        UsageError: HARNESS_JOBS is not a number of jobs.
    """
    there = visible_gpus() if device_kind == "cuda" else []
    if not there:
        yield []
        return
    places = [gpu_lock(home, there[0], number) for number in range(jobs_at_a_time())]
    held = next(filter(None, map(try_hold, places)), None)
    if held is None:
        say(f"GPU {there[0].index} is in use by another command ({whose(places[0])}); waiting for it")
        held = wait_for(places, control)
    with held:
        yield [held.fileno()]


def processes_on(gpu: Gpu) -> list[Process]:
    """Processes that compute on a GPU; empty where nvidia-smi does not say."""
    return [
        Process(int(pid), name, int(memory) if memory.isdigit() else None)
        for uuid, pid, name, memory in query_driver("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", 4)
        if uuid == gpu.uuid and pid.isdigit()
    ]


def foreign(found: Iterable[Process], *, alone: bool) -> list[Process]:
    """Those of some processes that this harness did not start.

    Args:
        found: from `processes_on`.
        alone: whether no job of this harness runs on the GPU; then a process of another PID namespace, whose parents
            cannot be seen, is known to be foreign too.
    """
    seen = [(process, _lineage(process.pid)) for process in found]
    return [process for process, line in seen if (alone if line is None else os.getpid() not in line)]


def _lineage(pid: int) -> set[int] | None:
    """A process and those that it descends from; None where they cannot be seen."""
    import psutil

    try:
        return {pid, *(one.pid for one in psutil.Process(pid).parents())}
    except psutil.Error:
        return None
