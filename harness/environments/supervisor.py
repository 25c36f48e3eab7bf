"""Watches one job: `python -I -S supervisor.py`, started by `harness.environments.supervise` and by nothing else.

A process of its own, so that a job never outlives its harness, however the harness ends. It imports the standard
library only and starts in milliseconds. It ends the job at a phase's deadline, when it is told to, and when the harness
is gone, which it sees by its standard input, where the request came as one line of JSON. To end a job is SIGTERM to its
process group, then SIGKILL to the group and to all that descends from it, in whatever group and session.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICK_SECONDS = 0.1
_HEARTBEAT_SECONDS = 1.0
_KILL_PATIENCE = 10.0
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 2**20
_READS = 64
_LAST_WORDS = 8192
_NEWLINE_WITHIN = 4096


def _prctl(option: int, value: int) -> None:
    # Linux only; elsewhere the job is watched all the same, but a supervisor that is killed leaves it running.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_supervisor(parent: int) -> None:
    """Runs in the job's process before the job: it is killed when this process is."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _say(value: dict[str, Any]) -> None:
    """Tell the harness, through a pipe and not a file: it must also hear it when the disk is full."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(value).encode())


def _text(path: str, size: int = -1) -> str:
    """A file, or its beginning; empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - starts faster without pathlib
            return file.read(size)
    except OSError:
        return ""


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory, on this machine or in any of its cgroups."""
    for line in _text("/proc/vmstat").splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdigit():
            return int(number)
    return 0


def descendants(root: int) -> list[int]:
    """Every living process below `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        fields = _text(f"/proc/{name}/stat").rpartition(")")[2].split()
        if len(fields) > 1 and fields[0] not in {"Z", "X"}:
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


class _Log:
    """What a job prints, in a file: all of it, or its beginning and its end with a sentence between them.

    The job writes into a pipe and not into the file: so the file can be cut while the job prints, and never outgrows
    the disk, however much comes at once. Readable by others at any time.
    """

    def __init__(self, path: str, head: int, tail: int) -> None:
        self.head, self.tail = head, tail
        self.left_out, self.sentence, self.unwritten = 0, b"", b""
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.reader, _F_SETPIPE_SZ, _PIPE_BYTES)

    def sources(self) -> list[int]:
        """What to wait for."""
        return [self.reader] if self.reader >= 0 else []

    def take(self, times: int = 1) -> None:
        """Write down what has come, a pipe's content each time; of what a full disk has no room for, keep the end."""
        for _ in range(times):
            try:
                some = os.read(self.reader, _PIPE_BYTES) if self.reader >= 0 else b""
            except BlockingIOError:
                return
            if not some:
                if self.reader >= 0:
                    os.close(self.reader)
                    self.reader = -1
                return
            self.unwritten += some
            with contextlib.suppress(OSError):
                self._write()
                self._shorten()
            self.unwritten = self.unwritten[-_LAST_WORDS:]

    def _write(self) -> None:
        while self.unwritten:
            self.unwritten = self.unwritten[os.write(self.file, self.unwritten) :]

    def _shorten(self) -> None:
        size = os.fstat(self.file).st_size
        # Twice the tail, so that it is not written again with every line.
        if size <= self.head + 2 * self.tail:
            return
        tail = os.pread(self.file, self.tail, size - self.tail)
        tail = tail[tail.find(b"\n", 0, _NEWLINE_WITHIN) + 1 :]
        self.left_out += size - self.head - len(self.sentence) - len(tail)
        words = f"[harness: {self.left_out} bytes are left out here, since the output is too long to be kept whole.]"
        self.sentence = b"\n" + words.encode() + b"\n"
        os.ftruncate(self.file, self.head)
        self.unwritten = self.sentence + tail
        self._write()


class _Watch:
    """One job under way."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.started = time.monotonic()
        self.stage = 0
        self.stage_started = self.started
        self.phase = ""
        self.beat = 0.0
        self.status: int | None = None
        self.signalled = False

    def start(self) -> None:
        parent = os.getpid()
        self.log = _Log(self.request["log"], *self.request["log_limits"])
        self.process = subprocess.Popen(
            self.request["command"],
            env=self.request["environment"],
            cwd=self.request["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=self.log.writer,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _die_with_supervisor(parent),  # noqa: PLW1509 - this process has one thread
        )
        os.close(self.log.writer)

    def reap(self) -> None:
        """Collect every child that has ended, adopted ones included; note the job's own status."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.process.pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.process.returncode = self.status

    def overdue(self) -> str:
        """The name of the deadline that has passed, or nothing."""
        stages = self.request["deadlines"]
        while self.stage < len(stages) - 1 and self.phase not in stages[self.stage][1]:
            self.stage += 1
            self.stage_started = time.monotonic()
        if not stages:
            return ""
        name, _phases, seconds = stages[self.stage]
        return name if time.monotonic() - self.stage_started > seconds else ""

    def heartbeat(self) -> None:
        """Write where the job stands, once a second; a full disk does not end the job."""
        if time.monotonic() - self.beat < _HEARTBEAT_SECONDS:
            return
        self.beat = time.monotonic()
        text = json.dumps({"pid": self.process.pid, "supervisor": os.getpid(), "phase": self.phase})
        # No rename: the file is one short write, and its time is what counts.
        with contextlib.suppress(OSError), open(self.request["heartbeat"], "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)

    def stop(self, patience: float) -> None:
        """End the job and whatever it started."""
        group = self.process.pid
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, _KILL_PATIENCE)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
            end = time.monotonic() + wait
            self.reap()
            while self.status is None and time.monotonic() < end:
                time.sleep(0.02)
                # Or its last words would keep it from ending.
                self.log.take(_READS)
                self.reap()
        end = time.monotonic() + _KILL_PATIENCE
        # Orphans become children of this process, so that none can get away by forking twice.
        while (left := descendants(os.getpid())) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            self.reap()
        self.reap()
        # Nobody is left to write more than the pipe holds.
        self.log.take(_READS)

    def run(self, wakeup: int) -> dict[str, Any]:
        """Watch until the job has ended, and return how."""
        kills = _oom_kills()
        why, overdue = "", ""
        self.heartbeat()
        while not why and not overdue:
            ready, _, _ = select.select([0, wakeup, *self.log.sources()], [], [], _TICK_SECONDS)
            self.log.take()
            if wakeup in ready:
                os.read(wakeup, 1024)
            if 0 in ready:
                why = "stopped" if os.read(0, 1024) else "orphaned"
            if self.signalled:
                why = "stopped"
            self.phase = _text(self.request["phase"], 200).strip()
            self.heartbeat()
            self.reap()
            if self.status is not None:
                break
            overdue = self.overdue()
        self.stop(0.0 if self.status is not None else self.request["grace"])
        return {
            "exit_code": self.status if self.status is not None else -signal.SIGKILL,
            "phase": _text(self.request["phase"], 200).strip(),
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "deadline": overdue,
            "from_outside": why == "stopped",
            "oom_kills": _oom_kills() - kills,
            "unwritten": self.log.unwritten.decode("utf-8", "replace"),
        }


def main() -> int:
    """Watch the job of the request on standard input; say on standard output how it ended, as JSON."""
    text = b""
    while not text.endswith(b"\n"):
        some = os.read(0, 65536)
        if not some:
            return 1
        text += some
    request = json.loads(text)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    watch = _Watch(request)

    def stop(_number: int, _frame: object) -> None:
        watch.signalled = True

    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        watch.start()
    except OSError as error:
        _say({"error": error.strerror, "errno": error.errno, "filename": error.filename})
        return 0
    _say(watch.run(reader))
    return 0


if __name__ == "__main__":
    sys.exit(main())
