"""Run a command under a supervisor: a deadline for each phase, an end for all it starts, a word on how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.flock import Held, hold, hold_any
from harness.home import Home

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""
LOG_LIMITS = (64 * 2**20, 32 * 2**20)
"""Bytes of a job's output that are kept: of its beginning, and at least of its end. What is longer is cut between."""
OWNER = ".owner.lock"
"""In a run's folder: a lock that its harness and its job hold."""


@dataclass(frozen=True)
class Deadline:
    """A limit on some phases.

    Attributes:
        name: for the sentence, such as `import`.
        seconds: wall seconds from the first of the phases.
        phases: what the job's phase file holds while it lasts; the last deadline holds to the end, whatever the phase.
    """

    name: str
    seconds: float
    phases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: negative for a signal.
        phase: what the phase file held last; empty without one.
        wall_seconds: from its start.
        deadline: name of the deadline that passed, or empty.
        lost: its supervisor was killed, so that the exit code is not known.
        from_outside: somebody else told the supervisor to stop, as a scheduler does.
        oom_kills: how many processes the kernel killed for want of memory meanwhile, on the whole machine.
        unwritten: the last that it printed, as far as the disk of its log was too full to take it.
    """

    exit_code: int
    phase: str
    wall_seconds: float
    deadline: str = ""
    lost: bool = False
    from_outside: bool = False
    oom_kills: int = 0
    unwritten: str = ""


class Stopped(Exception):  # noqa: N818 - what the user wants is no error
    """The user wants the running job ended; nothing of it is kept."""


class Control:
    """What the user wants of the work under way; shared by all threads.

    Attributes:
        finishing: start nothing new.
        stopping: end what is running, too.
    """

    def __init__(self) -> None:
        self.finishing = threading.Event()
        self.stopping = threading.Event()

    def stop(self) -> None:
        """End everything."""
        self.finishing.set()
        self.stopping.set()


def wait_for(locks: Sequence[Path], control: Control | None = None, *, shared: bool = False) -> Held:
    """Wait for the first of some locks that is free.

    Raises:
        Stopped: `control` said so first.
    """
    held = hold_any(locks, shared=shared, cancelled=control.stopping.is_set if control else lambda: False)
    if held is None:
        raise Stopped
    return held


@contextmanager
def run_folder(home: Home, prefix: str) -> Iterator[tuple[Path, Held]]:
    """A folder below `home.runs` that lasts as long as the `with` block, and the lock by which its owner lives."""
    home.runs.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=home.runs))
    held = None
    try:
        held = hold(run / OWNER)
        yield run, held
    finally:
        shutil.rmtree(run, ignore_errors=True)
        if held is not None:
            held.release()


def supervise(
    command: Sequence[str],
    *,
    environment: dict[str, str],
    run: Path,
    deadlines: Sequence[Deadline],
    phase: Path | None = None,
    on_phase: Callable[[str], None] = lambda _phase: None,
    on_progress: Callable[[str], None] = lambda _far: None,
    meanwhile: Callable[[], None] = lambda: None,
    control: Control | None = None,
    hold: Sequence[int] = (),
    cwd: Path | None = None,
) -> Ended:
    """Run a command to its end, to a deadline, or until the user stops it.

    Whatever happens, including the death of this process by SIGKILL, nothing that the command started goes on running.

    Args:
        command: program and arguments.
        environment: all of its variables.
        run: a folder; gets `log.txt` (appended to) with what the command prints, as far as `LOG_LIMITS` allow, and
            `heartbeat`.
        deadlines: in order.
        phase: a file in which the command names its phase.
        on_phase: called with each phase as it begins.
        on_progress: called with how far the command is in it, as it says in the file `progress` beside `phase`.
        meanwhile: called a few times a second for as long as the command runs.
        control: stops the command.
        hold: descriptors of locks that are held until the command is gone, even if this process ends before it.
        cwd: `run` when absent.

    Raises:
        Stopped: `control` said so.
        OSError: the command cannot be started.
    """
    request = {
        "command": list(command),
        "environment": environment,
        "cwd": str(cwd or run),
        "log": str(run / "log.txt"),
        "log_limits": LOG_LIMITS,
        "heartbeat": str(run / "heartbeat"),
        "phase": str(phase or ""),
        "deadlines": [[d.name, ["", *d.phases], d.seconds] for d in deadlines],
        "grace": GRACE_SECONDS,
    }
    program = Path(__file__).with_name("supervisor.py")
    with (run / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, pass_fds=tuple(hold),
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    seen, far, stopped = "", "", False
    try:
        # Through a pipe and not a file: the variables may hold a package index's password.
        os.write(process.stdin.fileno(), json.dumps(request).encode() + b"\n")
        while not select.select([process.stdout], [], [], 0.1)[0]:
            now = read(phase) if phase else ""
            if now and now != seen:
                seen, far = now, ""
                on_phase(now)
            elif phase and (said_now := read(phase.with_name("progress"))) not in ("", far):
                far = said_now
                on_progress(far)
            meanwhile()
            if control is not None and control.stopping.is_set() and not stopped:
                stopped = True
                with contextlib.suppress(OSError):
                    process.stdin.close()
    finally:
        # Closing its standard input tells the supervisor to end the job, if it has not ended yet.
        with contextlib.suppress(OSError):
            process.stdin.close()
        said = process.stdout.read()
        process.stdout.close()
        process.wait()
    if stopped:
        raise Stopped
    try:
        ended = json.loads(said)
    except ValueError:
        # The supervisor was killed, and the job itself with it; the job's children may be left.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            os.killpg(int(json.loads((run / "heartbeat").read_text(encoding="utf-8"))["pid"]), signal.SIGKILL)
        return Ended(process.returncode, read(phase) if phase else "", 0.0, lost=True)
    if "error" in ended:
        raise OSError(ended["errno"], ended["error"], ended["filename"])
    return Ended(**ended)


def read(path: Path) -> str:
    """A small text file without the blanks around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
