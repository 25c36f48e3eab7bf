"""Work spread over the cores: no more threads than cores are at it, however deep one loop stands in another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

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
    elif threads:
        with ThreadPoolExecutor(count) as pool:
            yield from pool.map(look, pieces)
    else:
        work = _Work(look, pieces, count - 1)
        try:
            yield from work.results()
        finally:
            work.end()


class _Work(Generic[Piece, Found]):
    """Pieces, what was found of each, and who helps."""

    def __init__(self, look: Callable[[Piece], Found], pieces: list[Piece], most: int) -> None:
        self._look, self._pieces, self._most = look, pieces, most
        self._found: dict[int, Future[Found]] = {place: Future() for place in range(len(pieces))}
        self._next = 0
        self._helpers: list[threading.Thread] = []
        self._lock = threading.Lock()

    def results(self) -> Iterator[Found]:
        """One after the other; while a helper is at the next, its followers are worked at."""
        for place in range(len(self._pieces)):
            while not self._found[place].done() and (mine := self._take()) is not None:
                self._do(mine, Exception)
            yield self._found.pop(place).result()

    def end(self) -> None:
        """Let nobody begin another piece, and wait for those that are being looked at."""
        with self._lock:
            self._next = len(self._pieces)
        for helper in self._helpers:
            helper.join()

    def _take(self) -> int | None:
        """The next piece that nobody has; where more are left, a core that nobody uses is asked to help."""
        with self._lock:
            mine = self._next
            if mine >= len(self._pieces):
                return None
            self._next += 1
            if self._next < len(self._pieces) and len(self._helpers) < self._most and _spare.acquire(blocking=False):
                self._helpers.append(threading.Thread(target=self._help))
                self._helpers[-1].start()
            return mine

    def _help(self) -> None:
        try:
            while (mine := self._take()) is not None:
                self._do(mine, BaseException)
        finally:
            _spare.release()

    def _do(self, mine: int, caught: type[BaseException]) -> None:
        try:
            self._found[mine].set_result(self._look(self._pieces[mine]))
        except caught as error:
            self._found[mine].set_exception(error)


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
