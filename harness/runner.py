"""Run one cell: start the worker in its environment, watch it, and take what it made into the store."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

import harness
from harness.cells import CellSpec
from harness.checkpoint import CheckpointFiles
from harness.collection import Passages, write_jsonl
from harness.environments import DISK_SIGNS
from harness.flock import Held, try_hold
from harness.gpus import gpu_turn
from harness.home import Home
from harness.mends import with_mend
from harness.store import OUTCOMES, Cell, Store
from harness.supervise import OWNER, Control, Deadline, Ended, run_folder, supervise
from harness.tensors import UnreadableTensor

_LOG_TAIL = 40
_LAST_LINES = 5
_NEW_SECONDS = 60
_TRIES_KEPT = 20
_DRIVER = "libcuda.so*"
RECORD = "run.json"
"""In a run's folder: which cell it is of."""
INFRASTRUCTURE = frozenset({"offline", "registry_error", "disk_full", "gpu_lost", "lost"})
"""Values of a cell's `cause` that say something about the machine and nothing about the version: tried again."""
GPU_SIGNS = re.compile(
    r"CUDA-capable device\(s\) is/are busy or unavailable|no CUDA-capable device is detected|CUDA unknown error|"
    r"uncorrectable (?:NVLink|ECC) error|\bXid\b|GPU is lost|fallen off the bus|"
    r"CUDA_ERROR_(?:NO_DEVICE|DEVICE_UNAVAILABLE|ECC_UNCORRECTABLE)|cudaError(?:NoDevice|DevicesUnavailable|ECCUncorrectable)"
)
"""What CUDA and the driver say when a GPU went away, as opposed to a kernel that is wrong."""
_MEMORY_SIGNS = re.compile(
    r"can't allocate memory|std::bad_alloc|Cannot allocate memory|CUDA out of memory|CUDA error: out of memory|"
    r"CUBLAS_STATUS_ALLOC_FAILED|^MemoryError",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Interpreter:
    """What runs the worker.

    Attributes:
        python: an interpreter.
        site: a site folder that it needs on its path beside its own, for environments that were brought as files.
    """

    python: Path
    site: Path | None = None


def worker_copy(home: Home) -> Path:
    """Return a folder that holds the worker and nothing else of this package.

    The harness itself lives beside NumPy 2 and pandas; its own site folder on a job's path would replace the job's.
    """
    source = Path(harness.__file__).parent
    files = [source / "__init__.py", *sorted((source / "worker").rglob("*.py"))]
    digest = blake3()
    for path in files:
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    folder = home.workers / digest.hexdigest(length=8)
    if folder.is_dir():
        return folder
    home.workers.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".new-", dir=home.workers))
    for path in files:
        target = making / "harness" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    try:
        making.rename(folder)
    except OSError:
        # Another process made it first; its content is the same, since the name is the content's digest.
        shutil.rmtree(making, ignore_errors=True)
    return folder


def run_index(
    home: Home,
    store: Store,
    spec: CellSpec,
    interpreter: Interpreter,
    passages: Passages,
    checkpoint: CheckpointFiles,
    *,
    device_kind: str,
    capture: str,
    deadline: float,
    import_deadline: float | None = None,
    swap: dict[str, Path] | None = None,
    gpu: str | None = None,
    extra: Callable[[], dict[str, Any]] = dict,
    on_phase: Callable[[str], None] = lambda _phase: None,
    control: Control | None = None,
    hold: Sequence[int] = (),
) -> Cell:
    """Run the index job of `spec` and store the cell, however it ends.

    Args:
        home: for the run's folder and the worker.
        store: gets the cell.
        spec: what to run.
        interpreter: of the environment under test.
        passages: the collection.
        checkpoint: an absolute folder.
        device_kind: `cpu` or `cuda`.
        capture: `final`, `digests` or `full`.
        deadline: wall seconds from the end of the imports after which the job is stopped, and ends as `timeout`.
        import_deadline: the same for its start and its imports; `deadline` when absent.
        swap: artifact name to the safetensors file that takes its place.
        gpu: what the job gets as CUDA_VISIBLE_DEVICES, and what the caller has the lock of. When absent, it is that of
            the harness, and the job waits for its turn there. It is not part of the key.
        extra: called when the job has ended; what it returns goes into the cell's details.
        on_phase: called with each phase as it begins, and with a sentence if the job has to wait for its GPU.
        control: stops the job.
        hold: descriptors of locks that the job holds to its end, even if this process ends before it.

    Raises:
        Stopped: `control` said so; nothing is stored.
        OSError: the interpreter cannot be started, or nothing can be written.
    """
    # Whoever names a GPU holds it.
    turn = gpu_turn(home, device_kind if gpu is None else "", on_phase, control)
    with turn as places, run_folder(home, f"{spec.version}-{spec.key[:8]}") as (run, held):
        note = {"spec": spec.to_json(), "store": str(store.root), "capture": capture, "job": "index", **_me()}
        (run / RECORD).write_text(json.dumps(note), encoding="utf-8")
        write_jsonl(passages, run / "passages.jsonl")
        (run / "tmp").mkdir()
        out = run / "out"
        out.mkdir()
        request = {
            "schema": 1,
            "job": spec.job,
            "key": spec.key,
            "device": device_kind,
            "passages": str(run / "passages.jsonl"),
            "checkpoint": str(checkpoint.path),
            "settings": spec.settings,
            "capture": capture,
            "swap": {name: str(path) for name, path in (swap or {}).items()},
        }
        (run / "cell.json").write_text(json.dumps(request, indent=1))
        worker = worker_copy(home)
        environment = worker_environment(spec, interpreter, worker, run, device_kind, gpu)
        command = [str(interpreter.python), "-m", "harness.worker", str(run / "cell.json"), str(out)]
        ended = supervise(
            command,
            environment=environment,
            run=run,
            deadlines=job_deadlines(deadline, import_deadline),
            phase=out / "phase",
            on_phase=on_phase,
            control=control,
            hold=[held.fileno(), *places, *hold],
        )
        sources = {"collection": passages.source, "checkpoint": checkpoint.source}
        known = {**extra(), "sources": sources, "worker": worker.name, "run": run.name}
        return conclude(store, spec, run, out, capture, device_kind, ended, known)


def job_deadlines(deadline: float, import_deadline: float | None = None) -> list[Deadline]:
    """Deadlines of a worker's job: for its start and its imports, then for the rest."""
    first = deadline if import_deadline is None else import_deadline
    return [Deadline("import", first, ("start", "import")), Deadline("index", deadline)]


def _me() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def recover(home: Home, store: Store, say: Callable[[str], None] = lambda _text: None) -> list[Cell]:
    """Find runs whose harness died, record them as `lost`, and delete what they left; return the lost cells.

    A run whose owner lives, here or on another machine of a shared filesystem, is left alone.
    """
    lost = []
    for run in sorted(home.runs.iterdir()) if home.runs.is_dir() else ():
        held = _abandoned(run)
        if held is None:
            continue
        with held:
            cell = _lost_cell(store, run)
            if cell is not None:
                lost.append(cell)
                say(f"{cell.label}: {cell.reason}")
            shutil.rmtree(run, ignore_errors=True)
    return lost


def _abandoned(run: Path) -> Held | None:
    """The lock of a run's folder if its owner is gone."""
    try:
        # A folder that has just been made does not have its lock yet.
        if not (run / OWNER).exists() and time.time() - run.stat().st_mtime < _NEW_SECONDS:
            return None
        return try_hold(run / OWNER) if run.is_dir() else None
    except OSError:
        return None


def _lost_cell(store: Store, run: Path) -> Cell | None:
    try:
        note = json.loads((run / RECORD).read_text(encoding="utf-8"))
        spec = CellSpec(**note["spec"])
        if note["store"] != str(store.root):
            return None
        there = store.latest(spec.key)
        # It may have died after its cell was stored, or another harness may have run the cell since.
        if there is not None and (there.details.get("run") == run.name or there.finished > note["started"]):
            return None
        phase = _read(run / "out" / "phase") or "start"
        reason = (
            f"The harness (process {note['pid']} on {note['host']}) ended while the job was in phase {phase}; the job "
            "was ended with it."
        )
        details = {"cause": "lost", "run": run.name, "log_tail": log_tail(run / "log.txt"), "tried": tried(there)}
        cell = Cell(spec.key, spec.group, spec.to_json(), "lost", reason, phase, str(note["capture"]), details=details)
        return store.put(cell, log=run / "log.txt")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def tried(cell: Cell | None) -> list[dict[str, Any]]:
    """What a new run of a cell keeps of one that something around the experiment ended: how each try ended."""
    if cell is None or not is_infrastructure(cell):
        return []
    last = {
        "outcome": cell.outcome,
        "cause": cell.details["cause"],
        "reason": cell.reason,
        "finished": cell.finished,
        "log_tail": "\n".join(str(cell.details.get("log_tail", "")).splitlines()[-_LAST_LINES:]),
    }
    earlier = cell.details.get("tried")
    return [*(earlier if isinstance(earlier, list) else []), last][-_TRIES_KEPT:]


def is_infrastructure(cell: Cell) -> bool:
    """Whether a cell ended for a reason around the experiment, which may not be there the next time."""
    return cell.details.get("cause") in INFRASTRUCTURE


def worker_environment(
    spec: CellSpec, interpreter: Interpreter, worker: Path, run: Path, device_kind: str, gpu: str | None = None
) -> dict[str, str]:
    """All of a job's environment variables: those of the cell, and those that this run and this machine need.

    Args:
        spec: gives the variables that are part of the cell's key.
        interpreter: of the environment under test.
        worker: from `worker_copy`.
        run: the run's folder, whose `tmp` is the job's home.
        device_kind: `cpu` or `cuda`.
        gpu: what the job gets as CUDA_VISIBLE_DEVICES; that of the harness when absent.
    """
    path = [str(worker), *([str(interpreter.site)] if interpreter.site else [])]
    environment = {
        **spec.environment,
        "PATH": os.pathsep.join([str(interpreter.python.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join(path),
        "HOME": str(run / "tmp"),
        "TMPDIR": str(run / "tmp"),
        # torch's extension cache is keyed by Python and CUDA, not by torch's version: never share it.
        "TORCH_EXTENSIONS_DIR": str(run / "tmp" / "torch_extensions"),
        "MPLCONFIGDIR": str(run / "tmp"),
    }
    if device_kind != "cpu":
        # The order in which nvidia-smi lists GPUs, by which `device.gpus` names the first one.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment = {**from_outside(), **environment}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def from_outside() -> dict[str, str]:
    """What a process on a GPU gets of this shell: its choice of GPUs, and where it says that the driver's library is.

    Other folders of LD_LIBRARY_PATH may hold a cuBLAS or a cuDNN, which would be loaded in place of the environment's.
    """
    found = {n: os.environ[n] for n in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES") if n in os.environ}
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f and any(Path(f).glob(_DRIVER))]
    return found | ({"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def log_tail(path: Path, unwritten: str = "") -> str:
    """The last lines of a job's log, and of what the disk had no room for, for its record."""
    text = ""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 65536))
        text = file.read().decode("utf-8", "replace")
    return "\n".join((text + unwritten).splitlines()[-_LOG_TAIL:])


def conclude(
    store: Store,
    spec: CellSpec,
    run: Path,
    out: Path,
    capture: str,
    device_kind: str,
    ended: Ended,
    known: dict[str, Any],
) -> Cell:
    """Turn what is left of a run into a stored cell."""
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
                artifacts = store.ingest(out / "index", out / "intermediates", capture)
            except (UnreadableTensor, KeyError) as error:
                outcome, reason = "invalid_output", f"The job said that it ended well, but {error}."
        outcome, reason, cause = _classify(outcome, reason, tail, run.parent, device_kind, ended)
        if cause:
            details["cause"] = cause
        cell = Cell(
            key=spec.key,
            group=spec.group,
            spec=spec.to_json(),
            outcome=outcome,
            reason=reason,
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
            return store.put(cell, log=run / "log.txt", index=out / "index")
        except OSError as error:
            if cell.outcome == "ok" or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            # What a failed job has written is of no use, and may be what fills the disk.
            shutil.rmtree(out, ignore_errors=True)
            return store.put(cell, log=run / "log.txt")


def _classify(outcome: str, reason: str, tail: str, runs: Path, device_kind: str, ended: Ended) -> tuple[str, str, str]:
    """Outcome, reason and cause, once the log is looked at: what the machine did is not the version's doing."""
    if outcome == "lost":
        return outcome, reason, "lost"
    if outcome in {"ok", "timeout", "out_of_memory"}:
        return outcome, reason, ""
    said = f"{reason}\n{tail}"
    if outcome != "unsupported" and DISK_SIGNS.search(said):
        reason = (
            f"The disk of {runs} was full in phase {ended.phase or 'start'}: free some space, or point --home (or "
            "HARNESS_HOME) to another disk."
        )
        return outcome, reason, "disk_full"
    # torch that sees no GPU calls the device unsupported; its log says when the driver failed instead.
    if device_kind != "cpu" and (sign := GPU_SIGNS.search(said)):
        return "lost", f"The GPU was lost in phase {ended.phase or 'start'} ({sign[0]}): {reason}", "gpu_lost"
    last = "\n".join(tail.splitlines()[-_LAST_LINES:])
    if outcome in {"crashed", "import_failed"} and _MEMORY_SIGNS.search(f"{reason}\n{last}"):
        return "out_of_memory", f"Memory ran out in phase {ended.phase or 'start'}: {reason}", ""
    return outcome, with_mend(reason, last), ""


def read_result(out: Path, ended: Ended) -> tuple[dict[str, Any], str, str]:  # noqa: PLR0911 - one for each ending
    """The worker's own result, the outcome and a reason: the worker's word counts only when it lived to give it."""
    phase, code = ended.phase or "start", ended.exit_code
    if ended.lost:
        return {}, "lost", f"The job's supervisor was killed in phase {phase}, and the job with it."
    try:
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        if not isinstance(result, dict) or result.get("outcome") not in OUTCOMES:
            raise ValueError("no known outcome")
    except FileNotFoundError:
        result = {}
    except (OSError, ValueError, RecursionError) as error:
        return {}, "invalid_output", f"result.json of the job cannot be read: {error}."
    if ended.deadline:
        return result, "timeout", (
            f"The job was stopped after {ended.wall_seconds:.0f} s in phase {phase}, at the deadline of "
            f"{ended.deadline} (deadline_seconds in matrix.yaml)."
        )  # fmt: skip
    if ended.from_outside:
        return result, "lost", f"Somebody or something else stopped the job in phase {phase}, as a scheduler does."
    if result:
        return result, str(result["outcome"]), str(result.get("reason", ""))
    if code < 0:
        return result, *_killed(-code, phase, ended.oom_kills)
    if code == 0:
        return result, "invalid_output", "The job ended with exit status 0 but wrote no result."
    if phase in {"start", "import"}:
        return result, "import_failed", f"The job ended with exit status {code} before it could import its packages."
    return result, "crashed", f"The job ended with exit status {code} in phase {phase}."


def _killed(number: int, phase: str, oom_kills: int) -> tuple[str, str]:
    """Outcome and reason of a job that a signal ended which this harness did not send."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        return "lost", f"Somebody or something else stopped the job by {name} in phase {phase}, as a scheduler does."
    if number == signal.SIGKILL and oom_kills:
        return "out_of_memory", f"The kernel killed the job in phase {phase} for want of memory (SIGKILL)."
    hint = " (a SIGKILL that nobody sent is usually the kernel out of memory)" if number == signal.SIGKILL else ""
    return "crashed", f"The job was killed by {name} in phase {phase}{hint}."
