"""Probes: small experiments beside the pipeline, stored as cells and compared between versions like artifacts.

One probe of one version is one cell, so that a probe that is new or was changed runs without the others.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import harness
from harness.environments.device import Device, cpu_device
from harness.environments.lockfile import Lock
from harness.environments.supervise import read
from harness.environments.uv import BuildFailed
from harness.errors import UnreadableTensor, UsageError
from harness.home import package_folder
from harness.inputs.jobs import JobSettings
from harness.inputs.matrix import Matrix
from harness.running.experiment import Experiment
from harness.running.job import JobResult, interpreter_of, workbench
from harness.running.progress import Board
from harness.running.specs import job_environment, release_of
from harness.store.cell import Artifact, Cell
from harness.store.spec import CellSpec, Checkpoint, Collection
from harness.store.store import Store
from harness.tensors.safetensors import read_safetensors
from harness.tensors.tensor import Tensor

JOB = "probe"
WHOLE_BYTES = 64 * 1024
"""Tensors of at most this size are kept whole."""
SAMPLE_BYTES = 16 * 1024
"""Of larger ones so much is kept: elements at even distances, the first and the last included."""

_FOLDER = package_folder() / "worker" / "probes"
_SHARED = ("__init__", "bench")
SAMPLE = ".sample"
"""Ends the name of an artifact that is a sample of a larger one."""


@cache
def known_probes() -> dict[str, str]:
    """Name of each probe to the first line of its module's docstring."""
    modules = [path for path in sorted(_FOLDER.glob("*.py")) if path.stem not in _SHARED]
    docstrings = [ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in modules]
    return {path.stem: text.partition("\n")[0] for path, text in zip(modules, docstrings, strict=True)}


def check_probes(names: Iterable[str]) -> list[str]:
    """The probes that are meant: all of them where none is named.

    Raises:
        UsageError: there is no such probe.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in known_probes():
            raise UsageError(f"--probe {name!r} is not a probe: choose from {', '.join(known_probes())}.")
    return wanted or list(known_probes())


@cache
def probe_digest(name: str) -> str:
    """Digest of a probe's code, which makes its inputs too: it is part of the cell's key."""
    digest = blake3()
    for stem in (*_SHARED, name):
        digest.update(f"{stem}\0".encode() + (_FOLDER / f"{stem}.py").read_bytes() + b"\0")
    return digest.hexdigest(length=16)


def probe_spec(
    matrix: Matrix,
    job: JobSettings,
    version: str,
    lock: Lock,
    name: str,
    checkpoint: Checkpoint,
    device: Device,
    cpu: str | None = None,
) -> CellSpec:
    """The cell of one probe in one version.

    Args:
        matrix: gives a version's oddities.
        job: whose threads and variables a probe has too.
        version: PyTorch release.
        lock: of its environment.
        name: of the probe.
        checkpoint: the model of the job.
        device: where it runs.
        cpu: identity of the processor, if it is not this machine's.
    """
    return CellSpec(
        job=JOB,
        version=version,
        lock=lock.digest,
        collection=Collection(f"probe {name}", probe_digest(name), 0),
        checkpoint=checkpoint,
        # Most probes run on the CPU too when the job has a GPU, so the processor decides bits even then.
        settings={
            "probe": name,
            "threads": job.threads,
            "dim": checkpoint.dim,
            "cpu": cpu_device().identity if cpu is None else cpu,
        },
        device=device.identity,
        environment=job_environment(matrix, job, release_of(version, lock), device),
        own=None if lock.own is None else dict(lock.own),
    )


# ---- Running


def run_probes(
    experiment: Experiment,
    versions: Sequence[str],
    names: Sequence[str],
    board: Board,
    *,
    repeats: Mapping[str, int] | None = None,
    again: bool = False,
) -> list[Cell]:
    """Run the probes that are not stored yet, one job for each version and repeat; return all cells.

    Args:
        experiment: checkpoint, device and settings.
        versions: in the order in which they run.
        names: of probes.
        board: shows progress.
        repeats: version to the number of extra runs (A against A).
        again: run stored ones too.
    """
    cells: list[Cell] = []
    matrix, job, device, model = experiment.matrix, experiment.job, experiment.device, experiment.checkpoint.record()
    for version in versions:
        plain = {
            name: probe_spec(matrix, job, version, experiment.lock(version), name, Checkpoint.of(model), device)
            for name in names
        }
        for repeat in range((repeats or {}).get(version, 0) + 1):
            specs = {name: spec.again(repeat) for name, spec in plain.items()}
            stored = {name: experiment.store.get(spec.key) for name, spec in specs.items()}
            pending = {name: specs[name] for name, cell in stored.items() if again or cell is None or cell.failed}
            label = f"{version}#{repeat}" if repeat else version
            board.phase(label, f"{len(pending)} of {len(names)} probes" if pending else "stored")
            made = _run_version(experiment, version, pending, board)
            cells += [cell for name in names if (cell := made.get(name) or stored[name]) is not None]
    return cells


def _run_version(experiment: Experiment, version: str, pending: dict[str, CellSpec], board: Board) -> dict[str, Cell]:
    """Run jobs until every pending probe has a cell: a probe that kills its job must not take the others along."""
    if not pending:
        return {}
    try:
        interpreter = interpreter_of(experiment, version, board.note)
    except BuildFailed as error:
        details = {"cause": error.cause, "log_tail": "\n".join(error.log.splitlines()[-40:])}
        cells = {name: _cell(spec, error.outcome, str(error), details) for name, spec in pending.items()}
        return {name: experiment.store.put(cell) for name, cell in cells.items()}
    made: dict[str, Cell] = {}
    bench = workbench(experiment)
    settings = {**experiment.job.model_dump(), "dim": experiment.checkpoint.dim}
    while waiting := [name for name in pending if name not in made]:
        with bench.scratch(JOB) as out:
            request = {"probes": waiting, "settings": settings}
            result = bench.run(pending[waiting[0]], interpreter, JOB, request, out)
            for name in waiting:
                if (out / name / "done.json").exists():
                    made[name] = take_result(experiment.store, pending[name], out / name, result)
            ended_in = read(out / "phase").removeprefix(f"{JOB} ")
            left = [name for name in waiting if name not in made]
            for name in [ended_in] if ended_in in left else left:
                outcome = "invalid_output" if result.ok else result.outcome
                reason = result.reason or "The job ended well but left nothing of this probe."
                made[name] = experiment.store.put(_cell(pending[name], outcome, reason, _details(result, {})))
    return made


def _cell(spec: CellSpec, outcome: str, reason: str, details: dict[str, Any]) -> Cell:
    return Cell.of(spec, outcome, reason, capture="full", details=details)


def _details(result: JobResult, done: dict[str, Any]) -> dict[str, Any]:
    return {
        "harness": harness.__version__,
        "log_tail": result.log_tail,
        "provenance": result.result.get("provenance", {}),
        **done,
    }


def take_result(store: Store, spec: CellSpec, folder: Path, result: JobResult) -> Cell:
    """Take what one probe left into the store."""
    with store.writing():
        try:
            cell = _read(store, spec, folder, result)
        except (OSError, ValueError, KeyError, TypeError, UnreadableTensor) as error:
            cell = _cell(spec, "invalid_output", f"What the probe left cannot be read: {error}.", {})
        return store.put(cell)


def _read(store: Store, spec: CellSpec, folder: Path, result: JobResult) -> Cell:
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    artifacts: dict[str, Artifact] = {}
    tensors = []
    for record in done["tensors"]:
        name = Path(record["file"]).stem
        artifacts |= _kept(store, name, read_safetensors(folder / record["file"])["tensor"])
        if record["role"] == "result":
            tensors.append({"case": record["case"], "tensor": record["tensor"], "artifact": name})
    facts = [{**fact, "pair": [Path(file).stem for file in fact["pair"] or ()]} for fact in done["facts"]]
    details = _details(result, {"facts": facts, "tensors": tensors, "refused": done["refused"]})
    cell = _cell(spec, str(done["outcome"]), str(done["reason"]), details)
    return replace(cell, artifacts=artifacts, seconds={"total": float(done["seconds"])})


def sample(tensor: Tensor) -> Tensor:
    """Elements of a large tensor at even distances, as many as are kept."""
    count = min(tensor.n, SAMPLE_BYTES // tensor.flat.itemsize)
    places = np.linspace(0, tensor.n - 1, count).astype(np.int64)
    return Tensor.of(tensor.flat[places], tensor.dtype)


def _kept(store: Store, name: str, tensor: Tensor) -> dict[str, Artifact]:
    """A digest of the whole always; the tensor if it is small, else a sample of it under a name of its own."""
    whole = tensor.nbytes <= WHOLE_BYTES
    found = {name: store.keep_tensor(tensor, "intermediate", stored=whole)}
    if not whole:
        found[f"{name}{SAMPLE}"] = store.keep_tensor(sample(tensor), "intermediate", stored=True)
    return found
