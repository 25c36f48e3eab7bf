"""What a cell runs on. A table holds for one GPU model, or one CPU family: libraries choose their kernels by device."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.inputs.matrix import Flavour, Matrix

# Extensions by which oneDNN, MKL, OpenBLAS, FAISS and torch's own kernels choose what to run.
_DISPATCH = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")

GPUS = "--query-gpu=index,uuid,name,compute_cap"
"""What the driver is asked about GPUs; see `query_driver`."""
_PATIENCE = 30


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
    """Identity of each visible GPU, in the order in which a job sees them; empty when there is no NVIDIA driver.

    nvidia-smi lists GPUs by bus, whatever CUDA_VISIBLE_DEVICES says, so that variable is applied here; jobs run with
    CUDA_DEVICE_ORDER=PCI_BUS_ID, so that its numbers mean the same to both.
    """
    return [identity for _, _, identity in visible(query_driver(GPUS, 4))]


def visible(rows: list[list[str]]) -> Iterator[tuple[str, str, str]]:
    """Index, UUID and identity of the GPUs that CUDA_VISIBLE_DEVICES names; of all where it names a slice of one.

    As in CUDA, the first name of no GPU ends the list.

    Args:
        rows: what the driver says to `GPUS`.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None and "MIG-" not in wanted:
        rows = list(_named(rows, wanted))
    for index, uuid, name, capability in rows:
        yield index, uuid, f"cuda {' '.join(f'{name} {capability}'.split())}"


def _named(rows: list[list[str]], wanted: str) -> Iterator[list[str]]:
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
            timeout=_PATIENCE,
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
    capability = capability_of(identity)
    if capability is None:
        return ""
    for oddity in matrix.oddities_of(version, "gpu"):
        names = oddity.architectures
        numbers = [int(name.removeprefix("sm_")) for name in names]
        if names and not any(n // 10 == capability[0] and n % 10 <= capability[1] for n in numbers):
            name = identity.removeprefix("cuda ").rsplit(" ", 1)[0]
            return (
                f"The wheel of torch {version} holds code for {', '.join(names)}, none of which runs on {name} "
                f"(compute capability {capability[0]}.{capability[1]})."
            )
    return ""


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
