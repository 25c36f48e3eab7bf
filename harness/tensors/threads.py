"""Work spread over the cores: no more threads than cores are at it, however deep one loop stands in another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, NoReturn, TypeVar

Found = TypeVar("Found")
Piece = TypeVar("Piece")

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
