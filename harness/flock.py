"""Locks between processes, held by an open file: what a dead process held is free, whatever it left on the disk.

These are flock locks. They hold between processes of one machine, and between machines on a shared filesystem that
passes flock on (NFS since version 4, GPFS, Lustre mounted with `-o flock`, CephFS).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import UsageError

_POLL_SECONDS = 0.05
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Held:
    """A lock that is held until `release`; a context manager, too.

    A child process that was given the descriptor (`pass_fds`) holds it on until it ends, so that what the lock guards
    is not free before the last of both is gone.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def release(self) -> None:
        """Give the lock up; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_hold(path: Path, *, shared: bool = False) -> Held | None:
    """Take a lock if it is free; its folder is made.

    Args:
        path: the lock's file. It is left behind: a file that nobody holds is no lock.
        shared: many may hold it at once, as long as nobody holds it alone.

    Raises:
        UsageError: the filesystem has no locks.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not shared:
                _sign(descriptor)
            # Somebody may have removed the file between the opening and the lock; then nobody else would see ours.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return Held(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return None
            if error.errno in _NO_LOCKS:
                raise UsageError(
                    f"The filesystem of {path.parent} has no file locks (flock), without which two processes would "
                    "build the same environment at once: point --home (or HARNESS_HOME) to one that has them."
                ) from error
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def hold(path: Path, *, shared: bool = False) -> Held:
    """Wait for a lock; see `try_hold`."""
    held = hold_any([path], shared=shared)
    assert held is not None
    return held


def hold_any(
    paths: Sequence[Path], *, shared: bool = False, cancelled: Callable[[], bool] = lambda: False
) -> Held | None:
    """Wait for the first of some locks that is free; None when `cancelled` became true first."""
    while True:
        for path in paths:
            held = try_hold(path, shared=shared)
            if held is not None:
                return held
        if cancelled():
            return None
        time.sleep(_POLL_SECONDS)


def owner(path: Path) -> dict[str, Any]:
    """What the holder of a lock wrote into its file: `pid`, `host` and `since`; empty if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def whose(path: Path) -> str:
    """The holder of a lock in words, such as `process 123 on node7`."""
    for _ in range(11):
        if found := owner(path):
            break
        # It was taken a moment ago, and its holder has yet to sign it.
        time.sleep(_POLL_SECONDS / 5)
    return f"process {found.get('pid', '?')} on {found.get('host', '?')}"


def _sign(descriptor: int) -> None:
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time())})
    # On a full disk the lock holds all the same; only the sentence about its holder is lost.
    with suppress(OSError):
        # In this order it is never empty once it was signed.
        os.pwrite(descriptor, text.encode(), 0)
        os.ftruncate(descriptor, len(text))
