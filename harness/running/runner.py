"""Run one cell: start the worker in its environment, watch it, and take what it made into the store."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
from harness.artifacts.directory import index_tensors
from harness.artifacts.kinds import kind_named
from harness.artifacts.source import listed
from harness.environments.device import gpu_turn
from harness.environments.interpreter import Interpreter
from harness.environments.supervise import Control, Ended, run_folder
from harness.errors import UnreadableTensor, UsageError
from harness.home import Home
from harness.running.causes import classify
from harness.running.job import log_tail, read_result, run_worker, worker_copy
from harness.running.kinds import JobInputs
from harness.running.recover import RECORD, this_process
from harness.store.cell import Artifact, Cell
from harness.store.spec import CellSpec
from harness.store.store import MODEL, Store

INSIDE = "intermediates"
"""In what a job leaves: the folder with what it recorded."""


def run_cell(
    home: Home,
    store: Store,
    spec: CellSpec,
    interpreter: Interpreter,
    inputs: JobInputs,
    *,
    device_kind: str,
    capture: str,
    deadline: float,
    import_deadline: float | None = None,
    swap: dict[str, Path] | None = None,
    gpu: str | None = None,
    extra: Callable[[], dict[str, Any]] = dict,
    on_phase: Callable[[str], None] = lambda _phase: None,
    on_progress: Callable[[str], None] = lambda _far: None,
    control: Control | None = None,
    hold: Sequence[int] = (),
) -> Cell:
    """Run the job of `spec` and store the cell, however it ends.

    Args:
        home: for the run's folder and the worker.
        store: gets the cell.
        spec: what to run.
        interpreter: of the environment under test.
        inputs: what the job is given beside its settings.
        device_kind: `cpu` or `cuda`.
        capture: `final`, `digests` or `full`.
        deadline: wall seconds from the end of the imports after which the job is stopped, and ends as `timeout`.
        import_deadline: the same for its start and its imports; `deadline` when absent.
        swap: artifact name to the safetensors file that takes its place.
        gpu: what the job gets as CUDA_VISIBLE_DEVICES, and what the caller has the locks of. When absent, it is that of
            the harness, and the job waits for its turn there. It is not part of the key.
        extra: called when the job has ended; what it returns goes into the cell's details.
        on_phase: called with each phase as it begins, and with a sentence if the job has to wait for its GPU.
        on_progress: called with how far it is in it.
        control: stops the job.
        hold: descriptors of locks that the job holds to its end, even if this process ends before it.

    Returns:
        The cell; `invalid_output`, without a run, where what the job is to be given cannot be used.

    Raises:
        Stopped: `control` said so; nothing is stored.
        OSError: the interpreter cannot be started, or nothing can be written.
    """
    # Whoever names a GPU holds it.
    turn = gpu_turn(home, device_kind if gpu is None else "", on_phase, control, spec.ranks)
    with turn as places, run_folder(home, f"{spec.version}-{spec.key[:8]}") as (run, held):
        note = {"spec": spec.to_json(), "store": str(store.root), "capture": capture, "job": spec.job, **this_process()}
        (run / RECORD).write_text(json.dumps(note), encoding="utf-8")
        try:
            given = inputs.write(run)
        except UsageError as error:
            # What it was to be given, such as another cell's index, is wrong: no reason to end the cells beside it.
            return store.put(
                Cell.of(spec, "invalid_output", str(error), phase="start", capture=capture, details=extra())
            )
        request = {
            **given,
            "checkpoint": str(inputs.checkpoint.path),
            "settings": spec.settings,
            "capture": capture,
            "swap": {name: str(path) for name, path in (swap or {}).items()},
        }
        worker, out = worker_copy(home), run / "out"
        taken: dict[str, Artifact] = {}

        def take() -> None:
            # What several ranks recorded is put together when they have ended.
            if spec.ranks == 1:
                store.take_digests(kind_named(spec.job), out / INSIDE, capture, taken)

        ended = run_worker(
            spec, interpreter, request, run, out, worker=worker, device_kind=device_kind, deadline=deadline,
            import_deadline=import_deadline, gpu=gpu, on_phase=on_phase, on_progress=on_progress, meanwhile=take,
            control=control, hold=[held.fileno(), *places, *hold],
        )  # fmt: skip
        known = {**extra(), "sources": inputs.sources, "worker": worker.name, "run": run.name}
        return conclude(store, spec, run, out, capture, device_kind, ended, known, inputs.artifacts(), taken)


def conclude(
    store: Store,
    spec: CellSpec,
    run: Path,
    out: Path,
    capture: str,
    device_kind: str,
    ended: Ended,
    known: dict[str, Any],
    given: Mapping[str, Artifact],
    taken: Mapping[str, Artifact] | None = None,
) -> Cell:
    """Turn what is left of a run, with the artifacts that it was given and those taken before, into a stored cell."""
    result, outcome, reason = read_result(out, ended)
    tail = log_tail(run / "log.txt", ended.unwritten)
    details = {
        "exit_code": ended.exit_code,
        "wall_seconds": ended.wall_seconds,
        "phase": ended.phase or "start",
        "harness": harness.__version__,
        "log_tail": tail,
        **known,
        **{k: v for k, v in result.items() if k not in {"schema", "outcome", "reason", "phase", "seconds"}},
    }
    with store.writing():
        artifacts = {}
        if outcome == "ok":
            try:
                kind = kind_named(spec.job)
                left = index_tensors(out / kind.folder, delete=True) if kind.folder else ()
                artifacts = store.ingest(kind, left, out / INSIDE, capture, taken)
                if lacking := kind.lacking(artifacts):
                    raise UnreadableTensor(f"it left no {listed(lacking)}")
                artifacts |= given
                artifacts = {name: artifacts[name] for name in kind.in_order(artifacts)}
            except (UnreadableTensor, KeyError) as error:
                outcome, reason = "invalid_output", f"The job said that it ended well, but {error}."
        outcome, reason, cause = classify(outcome, reason, tail, run.parent, device_kind, ended)
        if cause:
            details["cause"] = cause
        cell = Cell.of(
            spec,
            outcome,
            reason,
            phase=str(result.get("phase") or ended.phase or "start"),
            capture=capture,
            artifacts=artifacts,
            seconds=result.get("seconds", {}),
            details=details,
        )
        if not store.accepts(cell):
            # What the job wrote beside its outcome would make the record one that no reader takes for a cell.
            cell = replace(
                cell,
                outcome="invalid_output",
                reason="result.json of the job has a value of a wrong kind, or a number out of range, in a field.",
                phase=ended.phase or "start",
                artifacts={},
                seconds={},
                details={name: value for name, value in details.items() if name not in result},
            )
        try:
            return store.put(cell, log=run / "log.txt", index=out / "index", model=run / MODEL)
        except OSError as error:
            if cell.outcome == "ok" or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            # What a failed job has written is of no use, and may be what fills the disk.
            shutil.rmtree(out, ignore_errors=True)
            return store.put(cell, log=run / "log.txt")
