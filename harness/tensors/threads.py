"""Work spread over the cores: no more threads than cores are at it, however deep one loop stands in another."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

from harness.errors import InfrastructureError

Found = TypeVar("Found")
Piece = TypeVar("Piece")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_spare = threading.Semaphore(len(os.sched_getaffinity(0)) - 1)  # cores that no thread of `in_threads` has


def in_threads(
    look: Callable[[Piece], Found], pieces: Iterable[Piece], threads: int | None = None, *, most: int | None = None
) -> Iterator[Found]:
    """What `look` returns of each piece, in the pieces' order.

    The caller's thread works, too, with as many helpers as there are cores that nobody uses, from piece to piece: more
    threads than cores would wait for each other, above all for Python's lock. The first exception ends it, and so does
    whoever stops asking.

    Args:
        look: is called in several threads; nothing is gained where it holds Python's lock.
        pieces: what it is called with.
        threads: take so many, however many cores there are.
        most: take no more than so many.
    """
    pieces = list(pieces)
    count = min(threads or most or len(pieces), len(pieces))
    if count <= 1:
        yield from map(look, pieces)
        return
    work = _Work(look, pieces, count - 1, threading.Semaphore(count - 1) if threads else _spare)
    try:
        yield from work.results()
    finally:
        work.end()


def in_processes(look: Callable[[Piece], Found], pieces: Iterable[Piece], most: int) -> Iterator[Found]:
    """As `in_threads`, in processes that are forked from this one: each has a lock of Python's of its own.

    What `look` returns is pickled, as are the pieces; what it remembers beside that, this process does not know. Where
    processes cannot be forked, or other threads run that might hold a lock then, it is threads that look.

    Raises:
        InfrastructureError: the system ended one of them.
    """
    pieces, cores = list(pieces), len(os.sched_getaffinity(0))
    count = min(most, len(pieces), cores)
    if count < 2 or sys.platform != "linux" or threading.active_count() > 1:
        yield from in_threads(look, pieces, most=most)
        return
    # Not needed by whatever compares little.
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(count, get_context("fork"), _begin, (look, cores // count - 1))
    try:
        with warnings.catch_warnings():
            # Python 3.12 and later count threads that are not Python's: those of NumPy's BLAS survive a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = pool.map(_looked, pieces)
        yield from found
    except BrokenProcessPool as error:
        raise InfrastructureError(
            "The system ended a process that compared, most likely for lack of memory: give it more, or one core "
            "(`taskset -c 0`), with which one chunk is compared at a time."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def is_forked() -> bool:
    """Whether `in_processes` forked this process: the threads that a library keeps and would wait for are not in it."""
    return _is_forked


_is_forked = False
_look: Callable[[Any], Any]


def _begin(look: Callable[[Any], Any], spare: int) -> None:
    """Make a process that was just forked one that looks, with so many more cores."""
    global _is_forked, _look, _spare
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that forked it is told, too, and ends it
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody would end it when that one was killed
    _is_forked, _look, _spare = True, look, threading.Semaphore(spare)


def _looked(piece: Any) -> Any:  # noqa: ANN401 - whatever it is
    return _look(piece)


class _Work(Generic[Piece, Found]):
    """Pieces, what was found of each, and who helps: at most so many threads, each of which takes one of `cores`."""

    def __init__(
        self, look: Callable[[Piece], Found], pieces: list[Piece], most: int, cores: threading.Semaphore
    ) -> None:
        self._look, self._pieces, self._most, self._cores = look, pieces, most, cores
        self._next = 0
        self._found: dict[int, Callable[[], Found]] = {}  # until somebody asks
        self._helpers: list[threading.Thread] = []
        self._change = threading.Condition()

    def results(self) -> Iterator[Found]:
        """One after the other; while a helper is at the next, its followers are worked at."""
        for place in range(len(self._pieces)):
            while place not in self._found and (mine := self._take()) is not None:
                self._do(mine, Exception)
            with self._change:
                while place not in self._found:
                    self._change.wait()
                found = self._found.pop(place)
            yield found()

    def end(self) -> None:
        """Let nobody begin another piece, and wait for those that are being looked at."""
        with self._change:
            self._next = len(self._pieces)
        for helper in self._helpers:
            helper.join()

    def _take(self) -> int | None:
        """The next piece that nobody has; where more are left, a core that nobody uses is asked to help."""
        with self._change:
            mine = self._next
            if mine >= len(self._pieces):
                return None
            self._next += 1
            left = self._next < len(self._pieces)
            if left and len(self._helpers) < self._most and self._cores.acquire(blocking=False):
                self._helpers.append(threading.Thread(target=self._help))
                self._helpers[-1].start()
            return mine

    def _help(self) -> None:
        try:
            while (mine := self._take()) is not None:
                self._do(mine, BaseException)
        finally:
            self._cores.release()

    def _do(self, mine: int, caught: type[BaseException]) -> None:
        found: Callable[[], Found]
        try:
            found = partial(_itself, self._look(self._pieces[mine]))
        except caught as error:
            found = partial(_raised, error)
        with self._change:
            self._found[mine] = found
            self._change.notify()


def _itself(found: Found) -> Found:
    return found


def _raised(error: BaseException) -> NoReturn:
    raise error


@contextmanager
def alone(lock: threading.RLock) -> Iterator[None]:
    """Hold a lock; while another thread has it, that one may have this one's core."""
    if not lock.acquire(blocking=False):
        _spare.release()
        lock.acquire()
        _spare.acquire()
    try:
        yield
    finally:
        lock.release()
