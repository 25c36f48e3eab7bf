"""Loops in threads: results in order, and never more threads at work than cores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.tensors import threads
from harness.tensors.threads import alone, in_threads

CORES = 3


class AtWork:
    """How many threads are at work, and how many were at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(0.002)
            yield
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture(autouse=True)
def spare(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """A machine of so many cores, all of which are free again in the end."""
    semaphore = threading.Semaphore(CORES - 1)
    monkeypatch.setattr(threads, "_spare", semaphore)
    yield semaphore
    assert all(semaphore.acquire(blocking=False) for _ in range(CORES - 1))
    assert not semaphore.acquire(blocking=False)


def test_a_loop_in_a_loop_takes_no_more_threads_than_cores_and_takes_all_of_them() -> None:
    at_work = AtWork()

    def inner(piece: int) -> int:
        with at_work.one_more():
            return piece

    def outer(piece: int) -> list[int]:
        return list(in_threads(inner, range(piece, piece + 10)))

    assert [list(range(k, k + 10)) for k in range(8)] == list(in_threads(outer, range(8)))
    assert at_work.most == CORES
    at_work.most = 0
    assert [list(range(10))] == list(in_threads(outer, [0]))
    assert at_work.most == CORES


@pytest.mark.parametrize(("asked", "most"), [({"most": 2}, 2), ({"threads": 5}, 5), ({"threads": 1}, 1)])
def test_as_many_threads_as_asked_for(asked: dict[str, int], most: int) -> None:
    at_work = AtWork()

    def look(piece: int) -> int:
        with at_work.one_more():
            return piece

    assert list(range(20)) == list(in_threads(look, range(20), **asked))
    assert at_work.most == most


def test_the_first_exception_ends_it() -> None:
    seen = []

    def look(piece: int) -> int:
        seen.append(piece)
        time.sleep(0.001)
        if piece >= 3:
            raise ValueError(piece)
        return piece

    got: list[int] = []
    with pytest.raises(ValueError, match="3"):
        got.extend(in_threads(look, range(1000)))
    assert got == [0, 1, 2]
    assert max(seen) < 500


def test_whoever_stops_asking_ends_it() -> None:
    seen = []

    def look(piece: int) -> bool:
        seen.append(piece)
        time.sleep(0.001)
        return piece != 2

    assert not all(in_threads(look, range(1000)))
    before = len(seen)
    time.sleep(0.01)
    assert len(seen) == before < 500


def test_who_waits_for_a_lock_lends_its_core() -> None:
    """Each outer piece needs what one of them computes, which then has the cores of all who wait."""
    at_work = AtWork()
    lock = threading.RLock()

    def inner(piece: int) -> int:
        with at_work.one_more():
            time.sleep(0.005)
        return piece

    def outer(piece: int) -> int:
        with alone(lock), alone(lock):
            return sum(in_threads(inner, range(12))) + piece

    assert [66 + k for k in range(CORES)] == list(in_threads(outer, range(CORES)))
    assert at_work.most == CORES
