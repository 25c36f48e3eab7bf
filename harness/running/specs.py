"""A cell: one job in one environment on one collection, checkpoint, configuration and device; and its key."""

from __future__ import annotations

from harness.environments.device import Device
from harness.environments.lockfile import Lock
from harness.inputs.matrix import IndexJob, Matrix
from harness.store.spec import CellSpec, Checkpoint, Collection

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


def job_environment(matrix: Matrix, job: IndexJob, version: str | None, device: Device) -> dict[str, str]:
    """Variables of a job's process: what the harness sets, thread counts, oddities, then the user's own.

    Without a version there are no oddities.
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
    for oddity in matrix.oddities_of(version, device.flavour) if version else ():
        environment |= oddity.environment
    return environment | job.environment


def index_spec(
    matrix: Matrix,
    job: IndexJob,
    version: str,
    lock: Lock,
    collection: Collection,
    checkpoint: Checkpoint,
    device: Device,
) -> CellSpec:
    """The cell of one version's index job; the arguments are those of `CellSpec`."""
    settings = job.model_dump(
        include={"nbits", "index_bsize", "doc_maxlen", "kmeans_niters", "native_extensions", "threads"}
    )
    environment = job_environment(matrix, job, version, device)
    plain = job_environment(matrix, job, None, device)
    return CellSpec(
        job="index",
        version=version,
        lock=lock.digest,
        collection=collection,
        checkpoint=checkpoint,
        settings={**settings, "dim": checkpoint.dim},
        device=device.identity,
        environment=environment,
        oddities={name: plain.get(name) for name, value in environment.items() if plain.get(name) != value},
    )
