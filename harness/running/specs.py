"""A cell: one job in one environment on one collection, checkpoint, configuration and device; and its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.artifacts.kinds import kind_named
from harness.environments.device import Device
from harness.environments.lockfile import Lock
from harness.inputs.jobs import JobSettings
from harness.inputs.matrix import Matrix
from harness.store.spec import CellSpec, Checkpoint, Collection
from harness.words import version_key

FIXED_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "true",
    # OpenMP may otherwise use fewer threads than asked under load, and threads decide the order of summation.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
}


NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
"""What keeps the switch between GPUs from adding up: gradients of all ranks are then summed by NCCL's own kernels."""


def release_of(version: str, lock: Lock) -> str:
    """The PyTorch release by which an environment has oddities: the version, or the torch in one of the user's own."""
    return version if lock.own is None else version_key(lock.own["torch"]).public


def installed(lock: Lock) -> dict[str, Any]:
    """What a cell's details keep of an environment of the user's own, which no lock in the repository says."""
    return {"installed": {"packages": dict(lock.packages), "digests": dict(lock.digests)}} if lock.own else {}


def job_environment(matrix: Matrix, job: JobSettings, release: str | None, device: Device) -> dict[str, str]:
    """Variables of a job's process: what the harness sets, thread counts, oddities, then the user's own.

    Without a release there are no oddities.
    """
    threads = str(job.threads)
    environment = {
        **FIXED_ENVIRONMENT,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "NUMEXPR_NUM_THREADS": threads,
    }
    if device.kind == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if job.ranks > 1:
        environment |= NO_MULTICAST
    for oddity in matrix.oddities_of(release, device.flavour) if release else ():
        environment |= oddity.environment
    return environment | job.environment


def job_spec(
    matrix: Matrix,
    job: JobSettings,
    version: str,
    lock: Lock,
    collection: Collection,
    checkpoint: Checkpoint,
    device: Device,
    given: Mapping[str, Any] | None = None,
    **inputs: Any,  # noqa: ANN401 - fields of it
) -> CellSpec:
    """The cell of one version's job; the arguments are those of `CellSpec`.

    Args:
        matrix: gives a version's oddities.
        job: its settings, which say which job it is.
        version: PyTorch release, or the name of an environment of the user's own.
        lock: of its environment.
        collection: what is indexed, or was.
        checkpoint: the model.
        device: where it runs.
        given: settings that the inputs decide, beside the checkpoint's `dim`.
        inputs: what the job has beside collection and checkpoint.
    """
    environment = job_environment(matrix, job, release_of(version, lock), device)
    plain = job_environment(matrix, job, None, device)
    return CellSpec(
        job=job.NAME,
        version=version,
        lock=lock.digest,
        collection=collection,
        checkpoint=checkpoint,
        settings=job.decisive({"dim": checkpoint.dim, **(given or {})}),
        device=device.identity,
        environment=environment,
        oddities={name: plain.get(name) for name, value in environment.items() if plain.get(name) != value},
        own=None if lock.own is None else dict(lock.own),
        revision=kind_named(job.NAME).revision,
        **inputs,
    )
