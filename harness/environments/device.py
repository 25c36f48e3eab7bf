"""What cells run on, and who else is on it. A table holds for one GPU model, or one CPU family."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.environments.supervise import Control, wait_for
from harness.errors import UsageError
from harness.flock import try_hold, whose
from harness.home import Home
from harness.inputs.matrix import Build, Flavour, Matrix
from harness.words import count

# Extensions by which oneDNN, MKL, OpenBLAS, FAISS and torch's own kernels choose what to run.
_DISPATCH = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")

JOBS_VARIABLE = "HARNESS_JOBS"
MOST_JOBS = 64


@dataclass(frozen=True)
class Device:
    """A device under test.

    Attributes:
        kind: `cpu` or `cuda`.
        identity: what enters a cell's key, such as `cpu GenuineIntel 6/143 avx2+fma+avx512f` or
            `cuda NVIDIA H100 80GB HBM3 9.0`.
    """

    kind: str
    identity: str

    @property
    def flavour(self) -> Flavour:
        """Which environments serve it."""
        return "cpu" if self.kind == "cpu" else "gpu"

    @property
    def slug(self) -> str:
        """The identity as a folder name."""
        return "".join(c if c.isalnum() or c in ".+" else "-" for c in self.identity).lower().strip("-")


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


def cpu_device(cpuinfo: Path = Path("/proc/cpuinfo")) -> Device:
    """Describe this machine's CPU by vendor, family, model and the vector extensions that libraries dispatch on."""
    facts: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        return Device("cpu", f"cpu {platform.machine()} unknown")
    flags = set(facts.get("flags", "").split())
    extensions = "+".join(name for name in _DISPATCH if name in flags) or "baseline"
    vendor, family, model = (facts.get(k, "unknown") for k in ("vendor_id", "cpu family", "model"))
    return Device("cpu", f"cpu {vendor} {family}/{model} {extensions}")


def gpus() -> list[str]:
    """Identity of each visible GPU, in the order in which a job sees them; empty when there is no NVIDIA driver."""
    return [gpu.identity for gpu in _visible()]


def visible_gpus() -> list[Gpu]:
    """The GPUs that a job of this process could see, by bus; empty without a driver and where a MIG slice is named."""
    return [] if "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", "") else _visible()


def _visible() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names; all of them where it names a slice of one."""
    # By bus, whatever that variable says; jobs run with CUDA_DEVICE_ORDER=PCI_BUS_ID, to mean the same by it.
    rows = query_driver("--query-gpu=index,uuid,name,compute_cap", 4)
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None and "MIG-" not in wanted:
        rows = list(_named(rows, wanted))
    return [Gpu(index, uuid, f"cuda {' '.join(f'{name} {code}'.split())}") for index, uuid, name, code in rows]


def _named(rows: list[list[str]], wanted: str) -> Iterator[list[str]]:
    """As CUDA reads the variable: the first name of no GPU ends the list."""
    for item in (part.strip() for part in wanted.split(",")):
        named = [row for row in rows if item == row[0] or (item.startswith("GPU-") and row[1].startswith(item))]
        if len(named) != 1:
            return
        yield named[0]


def query_driver(question: str, columns: int) -> list[list[str]]:
    """What nvidia-smi answers to a `--query-…` option, row by row; empty where it does not answer."""
    try:
        said = subprocess.run(
            ["nvidia-smi", question, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    # A process's name may hold commas; the columns before and after it do not.
    rows = []
    for line in said.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) > columns == 4 and "compute-apps" in question:
            fields = [*fields[:2], ",".join(fields[2:-1]), fields[-1]]
        if len(fields) == columns:
            rows.append(fields)
    return rows


def capability_of(identity: str) -> tuple[int, int] | None:
    """The compute capability at the end of a GPU's identity; None for a CPU, or where the driver did not say."""
    major, _, minor = identity.rsplit(" ", 1)[-1].partition(".")
    if not identity.startswith("cuda ") or not (major.isdigit() and minor.isdigit()):
        return None
    return int(major), int(minor)


def missing_code(matrix: Matrix, version: str, identity: str) -> str:
    """Why a version's wheel cannot run on a device, by the architectures that `matrix.yaml` gives for it; or empty.

    The job would find the same out from the wheel itself (`harness.worker.index.runs_on`), once it is installed.
    """
    reason = _without_code(matrix, version, identity)
    return "" if reason and build_for(matrix, version, identity) else reason


def build_for(matrix: Matrix, version: str, identity: str) -> Build | None:
    """Another build of a version, that has code for a GPU that the version's own wheel has none for; else None."""
    if not _without_code(matrix, version, identity):
        return None
    return next((one for one in matrix.builds_of(version) if has_code(one.architectures, identity)), None)


def _without_code(matrix: Matrix, version: str, identity: str) -> str:
    capability = capability_of(identity)
    for oddity in matrix.oddities_of(version, "gpu") if capability else ():
        if oddity.architectures and not has_code(oddity.architectures, identity):
            name = identity.removeprefix("cuda ").rsplit(" ", 1)[0]
            return (
                f"The wheel of torch {version} holds code for {', '.join(oddity.architectures)}, none of which runs on "
                f"{name} (compute capability {'.'.join(map(str, capability or ()))})."
            )
    return ""


def has_code(architectures: Sequence[str], identity: str) -> bool:
    """Whether code for one of some architectures (`sm_90`) runs on a GPU: one of its major version, and no newer."""
    major, minor = capability_of(identity) or (0, 0)
    numbers = [int(name.removeprefix("sm_")) for name in architectures]
    return any(number // 10 == major and number % 10 <= minor for number in numbers)


def choose_device(wanted: str) -> Device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: `cuda` without a GPU.
    """
    if wanted == "cpu":
        return cpu_device()
    found = gpus()
    if found:
        # Cells run on the first visible GPU; mixed GPUs in one machine are chosen with CUDA_VISIBLE_DEVICES.
        return Device("cuda", found[0])
    if wanted == "cuda":
        raise UsageError("--device cuda: nvidia-smi lists no GPU on this machine; use --device cpu.")
    return cpu_device()


def usable_cores() -> int:
    """Cores that this process may use, which under a scheduler can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


# ---- places of jobs on GPUs, and who else is there


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
    if wanted is None or wanted == "all":
        return there
    by_index = {gpu.index: gpu for gpu in there}
    names = [name.strip() for name in wanted.split(",")]
    for number, name in enumerate(names):
        if name not in by_index or name in names[:number]:
            raise UsageError(
                f"--gpus {wanted}: {name!r} is not the number of one of the GPUs of this model "
                f"({device.identity}: {', '.join(by_index) or 'none'}), or is given twice."
            )
    return [by_index[name] for name in names]


def teams(gpus: Sequence[Gpu], ranks: int) -> list[tuple[Gpu, ...]]:
    """GPUs in groups for jobs of so many ranks, in their order; those that are left over stay idle.

    Raises:
        UsageError: there are GPUs, but too few for one job.
    """
    if gpus and len(gpus) < ranks:
        named = ", ".join(gpu.index for gpu in gpus)
        raise UsageError(
            f"nranks is {ranks} and each rank needs a GPU of its own, but there {'is' if len(gpus) == 1 else 'are'} "
            f"{count(len(gpus), 'GPU')} ({named}): use --nranks {len(gpus)}, or more GPUs."
        )
    return [tuple(gpus[start : start + ranks]) for start in range(0, len(gpus) - ranks + 1, ranks)]


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
    home: Home, device_kind: str, say: Callable[[str], object], control: Control | None = None, ranks: int = 1
) -> Iterator[list[int]]:
    """Wait until there is a place on each GPU that a job gets which is told of none, and keep it.

    A GPU has one place, or as many as HARNESS_JOBS says. For jobs that run one at a time; a sweep chooses the GPUs of
    its jobs itself.

    Args:
        home: whose jobs take turns.
        device_kind: `cpu` or `cuda`; nobody waits for a CPU, nor where the driver names no GPU.
        say: called with a sentence when it has to wait.
        control: ends the waiting.
        ranks: of the job, each of which gets a GPU.

    Yields:
        Descriptors that the job is to hold, too, lest the GPU be free before it has ended.

    Raises:
        Stopped: `control` said so.
        UsageError: HARNESS_JOBS is not a number of jobs.
    """
    there = visible_gpus() if device_kind == "cuda" else []
    with ExitStack() as turns:
        held = []
        # Always in one order, or two commands could wait for each other.
        for gpu in there[:ranks]:
            places = [gpu_lock(home, gpu, number) for number in range(jobs_at_a_time())]
            place = next(filter(None, map(try_hold, places)), None)
            if place is None:
                say(f"GPU {gpu.index} is in use by another command ({whose(places[0])}); waiting for it")
                place = wait_for(places, control)
            held.append(turns.enter_context(place).fileno())
        yield held


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
