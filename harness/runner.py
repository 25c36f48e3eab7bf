"""Run one cell: start the worker in its environment, watch it, and take what it made into the store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

import harness
from harness.cells import CellSpec
from harness.checkpoint import CheckpointFiles
from harness.collection import Passages, write_jsonl
from harness.environments import DISK_SIGNS
from harness.home import Home
from harness.store import OUTCOMES, Cell, Store
from harness.tensors import UnreadableTensor

_LOG_TAIL = 40
_GRACE_SECONDS = 10


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
    swap: dict[str, Path] | None = None,
    on_phase: Callable[[str], None] = lambda _phase: None,
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
        deadline: wall seconds after which the job is stopped, and ends as `timeout`.
        swap: artifact name to the safetensors file that takes its place.
        on_phase: called with each phase as it begins.
    """
    home.runs.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix=f"{spec.version}-{spec.key[:8]}-", dir=home.runs))
    try:
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
        environment = _environment(spec, interpreter, worker, run, device_kind)
        command = [str(interpreter.python), "-m", "harness.worker", str(run / "cell.json"), str(out)]
        ended = _supervise(command, environment, run, out, deadline, on_phase)
        return _conclude(store, spec, run, out, capture, {**ended, "worker": worker.name})
    finally:
        shutil.rmtree(run, ignore_errors=True)


def _environment(spec: CellSpec, interpreter: Interpreter, worker: Path, run: Path, device_kind: str) -> dict[str, str]:
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
        # The driver's own library may only be found through this path, and the user's choice of GPU must hold.
        for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
            if name in os.environ:
                environment.setdefault(name, os.environ[name])
    return environment


def _supervise(
    command: list[str],
    environment: dict[str, str],
    run: Path,
    out: Path,
    deadline: float,
    on_phase: Callable[[str], None],
) -> dict[str, Any]:
    """Run to the end or the deadline; SIGTERM to the whole process group, then SIGKILL."""
    started = time.monotonic()
    seen = ""
    timed_out = False
    with (run / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=run, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                phase = _read(out / "phase")
                if phase and phase != seen:
                    seen = phase
                    on_phase(phase)
                if time.monotonic() - started > deadline:
                    timed_out = True
                    break
                try:
                    process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _stop(process)
    return {
        "exit_code": process.returncode,
        "timed_out": timed_out,
        "phase": _read(out / "phase") or "start",
        "wall_seconds": round(time.monotonic() - started, 3),
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started, also when it ended by itself and left children behind."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-_LOG_TAIL:])
    except OSError:
        return ""


def _conclude(store: Store, spec: CellSpec, run: Path, out: Path, capture: str, ended: dict[str, Any]) -> Cell:
    """Turn what is left of a run into a stored cell."""
    result, outcome, reason = _result(out, ended)
    tail = _tail(run / "log.txt")
    details = {
        **ended,
        "harness": harness.__version__,
        "log_tail": tail,
        **{k: v for k, v in result.items() if k not in {"schema", "outcome", "reason", "phase", "seconds"}},
    }
    artifacts = {}
    if outcome == "ok":
        try:
            artifacts = store.ingest(out / "index", out / "intermediates", capture)
        except (UnreadableTensor, KeyError) as error:
            outcome, reason = "invalid_output", f"The job said that it ended well, but {error}."
    if outcome in {"crashed", "import_failed", "invalid_output"} and DISK_SIGNS.search(f"{reason}\n{tail}"):
        details["cause"] = "disk_full"
        reason = (
            f"The disk of {run.parent} was full in phase {ended['phase']}: free some space, or point --home (or "
            "HARNESS_HOME) to another disk."
        )
    cell = Cell(
        key=spec.key,
        group=spec.group,
        spec=spec.to_json(),
        outcome=outcome,
        reason=reason,
        phase=str(result.get("phase") or ended["phase"]),
        capture=capture,
        artifacts=artifacts,
        seconds=result.get("seconds", {}),
        details=details,
    )
    return store.put(cell, log=run / "log.txt", index=out / "index")


def _result(out: Path, ended: dict[str, Any]) -> tuple[dict[str, Any], str, str]:  # noqa: PLR0911 - one for each ending
    """The worker's own result, and the outcome: the worker's word counts only when it lived to give it."""
    phase, code = ended["phase"], ended["exit_code"]
    try:
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        if not isinstance(result, dict) or result.get("outcome") not in OUTCOMES:
            raise ValueError("no known outcome")
    except FileNotFoundError:
        result = {}
    except (OSError, ValueError) as error:
        return {}, "invalid_output", f"result.json of the job cannot be read: {error}."
    if ended["timed_out"]:
        return result, "timeout", f"The job was stopped after {ended['wall_seconds']:.0f} s in phase {phase}."
    if result:
        return result, str(result["outcome"]), str(result.get("reason", ""))
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (a SIGKILL that nobody sent is usually the kernel out of memory)" if name == "SIGKILL" else ""
        return result, "crashed", f"The job was killed by {name} in phase {phase}{hint}."
    if code == 0:
        return result, "invalid_output", "The job ended with exit status 0 but wrote no result."
    if phase in {"start", "import"}:
        return result, "import_failed", f"The job ended with exit status {code} before it could import its packages."
    return result, "crashed", f"The job ended with exit status {code} in phase {phase}."
