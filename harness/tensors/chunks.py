"""The one loop over two tensors' chunks, and the choices that it leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from harness.tensors.dtypes import Array
from harness.tensors.mapped import give_back, take_in

Found = TypeVar("Found")


@dataclass(frozen=True)
class How:
    """How a pair of tensors is gone through: what a result says does not depend on it.

    `threads` is how many a big tensor may take, all cores unless told; no number changes with it. Compiled kernels are
    used from `compiled_from` elements on: importing numba costs as much as comparing these in NumPy. A thread takes
    `chunk` elements at a time, and plain NumPy `numpy_chunk`: bigger work arrays would be fresh pages each time, which
    cost more than the arithmetic. `converts_half` is whether the processor converts float16; it is asked unless told.
    """

    threads: int | None = None
    compiled_from: int = 8_000_000
    chunk: int = 1 << 22
    numpy_chunk: int = 1 << 15
    converts_half: bool | None = None


USUAL = How()


def each_chunk(
    x: Array, y: Array, size: int, look: Callable[[Array, Array, int], Found], threads: int | None = 1
) -> Iterator[Found]:
    """What `look(p, q, start)` returns of each chunk of two flat arrays, in the chunks' order.

    Mapped pages are taken in before and given back after. The first exception ends it.
    """

    def one(start: int) -> Found:
        p, q = x[start : start + size], y[start : start + size]
        take_in(p, q)
        found = look(p, q, start)
        give_back(p, q)
        return found

    starts = range(0, x.size, size)
    count = min(threads or len(os.sched_getaffinity(0)), len(starts))
    if count <= 1:
        yield from map(one, starts)
        return
    with ThreadPoolExecutor(count) as pool:
        yield from pool.map(one, starts)
