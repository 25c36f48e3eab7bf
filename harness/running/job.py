"""Running one worker job: its interpreter, its copy of the worker, its variables, its deadlines and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from harness.artifacts.kinds import kind_named
from harness.environments.device import gpu_turn
from harness.environments.interpreter import Interpreter
from harness.environments.supervise import Control, Deadline, Ended, run_folder, supervise
from harness.files import disk_errors
from harness.home import Home, package_folder
from harness.running.experiment import Experiment
from harness.running.specs import NO_MULTICAST
from harness.store.cell import OUTCOMES
from harness.store.spec import CellSpec

_LOG_TAIL = 40
_DRIVER = "libcuda.so*"


def worker_copy(home: Home) -> Path:
    """Return a folder that holds the worker and nothing else of this package.

    The harness itself lives beside NumPy 2 and pandas; its own site folder on a job's path would replace the job's.
    """
    source = package_folder()
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


def run_worker(
    spec: CellSpec,
    interpreter: Interpreter,
    request: dict[str, Any],
    run: Path,
    out: Path,
    *,
    worker: Path,
    device_kind: str,
    deadline: float,
    import_deadline: float | None = None,
    gpu: str | None = None,
    on_phase: Callable[[str], None] = lambda _phase: None,
    on_progress: Callable[[str], None] = lambda _far: None,
    meanwhile: Callable[[], None] = lambda: None,
    control: Control | None = None,
    hold: Sequence[int] = (),
) -> Ended:
    """Run one job of the worker in an environment to its end, and say how it ended.

    Args:
        spec: gives the key and the environment variables, and the job where `request` names none.
        interpreter: of the environment under test.
        request: what the job wants beside these and the device.
        run: the run's folder; gets the request, the log, and `tmp`, the job's home.
        out: gets the job's files; made if it does not exist.
        worker: from `worker_copy`.
        device_kind: `cpu` or `cuda`.
        deadline: wall seconds from the end of the imports.
        import_deadline: the same for the start and the imports; `deadline` when absent.
        gpu: what the job gets as CUDA_VISIBLE_DEVICES; that of the harness when absent.
        on_phase: called with each phase as it begins.
        on_progress: called with how far it is in it.
        meanwhile: called a few times a second for as long as it runs.
        control: stops the job.
        hold: descriptors of locks that the job holds to its end, even if this process ends before it.

    Raises:
        Stopped: `control` said so.
        OSError: the interpreter cannot be started, or nothing can be written.
    """
    (run / "tmp").mkdir()
    out.mkdir(parents=True, exist_ok=True)
    request = {"schema": 1, "job": spec.job, "key": spec.key, "device": device_kind, **request}
    (run / "cell.json").write_text(json.dumps(request, indent=1))
    return supervise(
        [str(interpreter.python), "-m", "harness.worker", str(run / "cell.json"), str(out)],
        environment=worker_environment(spec, interpreter, worker, run, device_kind, gpu),
        run=run,
        deadlines=[
            Deadline("import", deadline if import_deadline is None else import_deadline, ("start", "import")),
            Deadline(kind_named(spec.job).name, deadline),
        ],
        phase=out / "phase",
        on_phase=on_phase,
        on_progress=on_progress,
        meanwhile=meanwhile,
        control=control,
        hold=hold,
    )


def worker_environment(
    spec: CellSpec, interpreter: Interpreter, worker: Path, run: Path, device_kind: str, gpu: str | None = None
) -> dict[str, str]:
    """All variables of a job: those of the cell, and what this run and this machine need; see `run_worker`."""
    path = [str(worker), *([str(interpreter.site)] if interpreter.site else [])]
    environment = {
        **gpu_variables(device_kind),
        **spec.environment,
        "PATH": os.pathsep.join([str(interpreter.python.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join(path),
        "HOME": str(run / "tmp"),
        "TMPDIR": str(run / "tmp"),
        # torch's extension cache is keyed by Python and CUDA, not by torch's version: never share it.
        "TORCH_EXTENSIONS_DIR": str(run / "tmp" / "torch_extensions"),
        "MPLCONFIGDIR": str(run / "tmp"),
    }
    if interpreter.as_is:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if device_kind != "cpu" and gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def gpu_variables(device_kind: str) -> dict[str, str]:
    """What a process on a GPU gets beside its own variables: the order of the GPUs, and some things of this shell.

    Those are its choice of GPUs, that the switch between them is not to be used (on a machine where it must not be),
    and where it says that the driver's library is. Other folders of LD_LIBRARY_PATH may
    hold a cuBLAS or a cuDNN, which would be loaded in place of the environment's. A process on a CPU gets nothing.
    """
    if device_kind == "cpu":
        return {}
    wanted = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", *NO_MULTICAST)
    found = {name: os.environ[name] for name in wanted if name in os.environ}
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f and any(Path(f).glob(_DRIVER))]
    # The order in which nvidia-smi lists GPUs, by which `device.gpus` names the first one.
    found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return found | ({"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {})


def log_tail(path: Path, unwritten: str = "") -> str:
    """The last lines of a job's log, and of what the disk had no room for, for its record."""
    text = ""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 65536))
        text = file.read().decode("utf-8", "replace")
    return "\n".join((text + unwritten).splitlines()[-_LOG_TAIL:])


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


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        outcome: one of the store's outcomes.
        reason: one sentence where it is not `ok`.
        out: the folder with what the job wrote.
        result: the worker's own result; empty if it wrote none.
        log_tail: the end of what it printed.
    """

    outcome: str
    reason: str
    out: Path
    result: dict[str, Any]
    log_tail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.outcome == "ok"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@dataclass(frozen=True)
class Workbench:
    """What jobs of one experiment have in common.

    Attributes:
        home: for run folders and the worker.
        checkpoint: an absolute folder.
        device_kind: `cpu` or `cuda`.
        deadline: wall seconds for one job.
        say: called with a sentence when a job has to wait for its GPU.
    """

    home: Home
    checkpoint: Path
    device_kind: str = "cpu"
    deadline: float = 3600.0
    say: Callable[[str], object] = _say

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A folder for job results that lasts as long as the `with` block."""
        with run_folder(self.home, name) as (folder, _held):
            yield folder

    def run(self, spec: CellSpec, interpreter: Interpreter, job: str, request: dict[str, Any], out: Path) -> JobResult:
        """Run `job` in one environment.

        Args:
            spec: gives the environment variables and the settings; its own job is not looked at.
            interpreter: of the environment.
            job: a name in `harness.worker.jobs`.
            request: what the job wants beside device, checkpoint and settings.
            out: gets the job's files; made if it does not exist.
        """
        wanted = {
            "job": job, "checkpoint": str(self.checkpoint), **request,
            "settings": {**spec.settings, **request.get("settings", {})},
        }  # fmt: skip
        turn = gpu_turn(self.home, self.device_kind, self.say)
        with turn as places, run_folder(self.home, f"{spec.version}-{job}") as (run, held):
            ended = run_worker(
                spec, interpreter, wanted, run, out, worker=worker_copy(self.home),
                device_kind=self.device_kind, deadline=self.deadline, hold=[held.fileno(), *places],
            )  # fmt: skip
            result, outcome, reason = read_result(out, ended)
            return JobResult(outcome, reason, out, result, log_tail(run / "log.txt", ended.unwritten))


# ---- of an experiment


def interpreter_of(experiment: Experiment, version: str, note: Callable[[str], None]) -> Interpreter:
    """The interpreter of a version; builds its environment if it is needed."""
    with disk_errors(experiment.home):
        return experiment.environment(version).ensure(note)


def workbench(experiment: Experiment) -> Workbench:
    """What jobs of an experiment have in common."""
    return Workbench(experiment.home, experiment.checkpoint.path, experiment.device.kind, experiment.job.deadline)
