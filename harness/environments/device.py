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
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid,name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in listed.splitlines() if line.count(",") == 3]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "MIG-" not in visible:
        rows = list(visible_rows(rows, visible))
    return [f"cuda {' '.join(f'{name} {capability}'.split())}" for _, _, name, capability in rows]


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


def visible_rows(rows: list[list[str]], visible: str) -> Iterator[list[str]]:
    """Rows (index, UUID, …) that CUDA_VISIBLE_DEVICES names; as in CUDA, the first name of no GPU ends the list."""
    for item in (part.strip() for part in visible.split(",")):
        named = [row for row in rows if item == row[0] or (item.startswith("GPU-") and row[1].startswith(item))]
        if len(named) != 1:
            return
        yield named[0]


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
