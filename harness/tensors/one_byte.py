"""Tensors of one-byte dtypes: every metric from how often each pair of bytes occurs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple
from weakref import ref

import numpy as np

from harness.tensors import compiled, passes
from harness.tensors.dtypes import Array, byte_values, judged
from harness.tensors.passes import KEPT, USUAL, How, Rule, Total, each_chunk, new_total, reduced
from harness.tensors.tensor import Tensor

_STRIP = 1 << 20  # bytes that are compared at a time: of fewer, threads would mostly wait for Python's lock
_PROBE = 1 << 12  # of which so many bytes are looked at first
_EXACT = 256  # so many squares of bytes have a sum that float32 holds
_SQUARED = _STRIP // 2  # and so many bytes are squared at a time
_PRODUCTS = (1, 2, 3)  # of `Partial.sums`, what numbers that are the same on both sides add to


class Counts(NamedTuple):
    """How often each pair of bytes occurs, shape (256, 256), int64; `same` further pairs are of equal bytes.

    Of what those bytes are only the sum of their `squares` is kept, which is all that any metric of uint8 needs.
    """

    pairs: Array
    same: int = 0
    squares: int = 0


class _Own(threading.local):
    """What a thread keeps.

    Attributes:
        known: the last two tensors whose pairs it counted: metrics and bucket numbers both follow from the counts.
        rows: float32 to square in; fresh memory each time would cost more than the squares.
    """

    known: tuple[ref[Tensor], ref[Tensor], Counts] | None = None

    @cached_property
    def rows(self) -> Array:
        return np.empty((_SQUARED // _EXACT, _EXACT), np.float32)


_own = _Own()


def pair_counts(a: Tensor, b: Tensor, how: How = USUAL) -> Counts:
    """Count the pairs of bytes of two tensors of a one-byte dtype; of the same two objects once."""
    known = _own.known
    if known is not None and known[0]() is a and known[1]() is b:
        return known[2]
    counts = _counted(a, b, how)
    _own.known = ref(a), ref(b), counts
    return counts


def _counted(a: Tensor, b: Tensor, how: How) -> Counts:
    table, same, squares = np.zeros((256, 256), np.int64), 0, 0
    counter = compiled.Pairs()

    def look(p: Array, q: Array, _start: int) -> Counts | None:
        few = _few(p, q) if a.dtype == "uint8" else None
        for side, part in ((a, p), (b, q)):
            if side.check is not None:  # what differs is held against its checksum, and the cache has it now
                side.check.take(part)
        # Asked here, because the compiler's start costs more than counting a few pairs.
        if few is not None or not compiled.usable(a.dtype, a.n, how):
            return few or Counts(passes.pairs(p, q))
        counter.count(p, q)
        return None

    for found in each_chunk(a.flat.view(np.uint8), b.flat.view(np.uint8), how.chunk, look, how.threads):
        if found is not None:
            table += found.pairs
            same, squares = same + found.same, squares + found.squares
    return Counts(table + counter.pairs(), same, squares)


def _few(p: Array, q: Array) -> Counts | None:
    """The counts of a chunk of uint8 in which few bytes differ; None where many do, which are counted faster."""
    if np.count_nonzero(p[:_PROBE] != q[:_PROBE]) * 4 > _PROBE:  # it takes as long as all else to find many
        return None
    left, right = [], []
    for _, eights, x, y in _apart(p, q):
        if eights is not None and eights.size * 4 > _STRIP // 8:
            return None
        left.append(x)
        right.append(y)
    apart = np.concatenate(left)
    pairs = passes.pairs(apart, np.concatenate(right))
    apart_squares = int(pairs.sum(axis=1) @ np.square(np.arange(256)))
    return Counts(pairs, p.size - apart.size, _squares(p) - apart_squares)


def _apart(p: Array, q: Array) -> Iterator[tuple[Array, Array | None, Array, Array]]:
    """The bytes that differ, strip by strip, from those eights that do, of which fewer are to be found.

    Yields:
        Where they are among the bytes of the eights that differ, which eights these are, and what either side holds
        there. At the end, which is no whole strip, eights are None: where they are in it.
    """
    for start in range(0, p.size, _STRIP):
        x, y, eights = p[start : start + _STRIP], q[start : start + _STRIP], None
        if x.size == _STRIP:
            x, y = x.view(np.uint64), y.view(np.uint64)
            eights = (x != y).nonzero()[0]
            x, y = x.take(eights).view(np.uint8), y.take(eights).view(np.uint8)
        at = (x != y).nonzero()[0]
        yield at, eights, x.take(at), y.take(at)


def _squares(p: Array) -> int:
    """The sum of the squares of uint8 numbers."""
    total, whole = 0, p.size // _SQUARED * _SQUARED
    for start in range(0, whole, _SQUARED):
        rows = _own.rows
        np.copyto(rows, p[start : start + _SQUARED].reshape(rows.shape))
        total += int(np.vecdot(rows, rows).sum(dtype=np.float64))
    return total + int(np.square(p[whole:], dtype=np.uint64).sum())


def run(a: Tensor, b: Tensor, rules: Sequence[Rule], how: How) -> Total:
    """Count the 65,536 pairs, and compute every metric from the counts."""
    total = new_total(a.dtype)
    x, y = a.flat.view(np.uint8), b.flat.view(np.uint8)
    counts, same, squares = pair_counts(a, b, how)
    # Each distinct pair is an element of a small problem, weighted by its count.
    occurring = np.flatnonzero(counts)
    left, right, weights = (occurring >> 8).astype(np.uint8), occurring.astype(np.uint8), counts.reshape(-1)[occurring]
    values = byte_values(a.dtype)
    u, v = values[left], values[right]

    def find(left: Array, right: Array, count: int) -> list[int]:
        """Flat indices of the first `count` places that hold one of these pairs of bytes."""
        wanted = np.zeros(65536, np.bool_)
        wanted[(left.astype(np.uint16) << 8) | right] = True
        # Mostly few bytes differ, and those that do not are asked for only where their dtype has NaN.
        only_apart = bool((left != right).all())

        def look(p: Array, q: Array, start: int) -> Array:
            at, eights, p, q = next(_apart(p, q)) if only_apart else (None, None, p, q)
            hits: Array = wanted[(p.astype(np.uint16) << 8) | q].nonzero()[0]
            hits = hits if at is None else at[hits]
            return start + (hits if eights is None else eights[hits >> 3] * 8 + (hits & 7))

        found: list[int] = []
        # Where many differ, what is looked for comes soon.
        some_more = 16 * _PROBE
        for here, size in (
            (slice(some_more), _PROBE),
            (slice(some_more, _STRIP), some_more),
            (slice(_STRIP, None), _STRIP),
        ):
            for some in each_chunk(x[here], y[here], size, look):
                found += [(here.start or 0) + int(hit) for hit in some[: count - len(found)]]
                if len(found) >= count:
                    return found
        return found

    def greatest(scores: Array) -> tuple[float, int]:
        best = float(scores.max()) if scores.size else 0.0
        return (best, find(left[scores == best], right[scores == best], 1)[0]) if best > 0 else (0.0, -1)

    with np.errstate(invalid="ignore"):
        part, unequal, difference = reduced(u, v, np.abs(u - v), rules, greatest, weights)
    finite = np.isfinite(u) & np.isfinite(v)
    np.add.at(total.histogram, total.bins.of(difference[finite]), weights[finite])
    total.histogram[0] += same
    part.finite += same
    part.sums = tuple(one + squares * (k in _PRODUCTS) for k, one in enumerate(part.sums))
    part.bits_apart = bool(np.any(left != right))
    part.failed = [judged(a.dtype) and bool(unequal.any()) for _ in rules]
    part.firsts = find(left[unequal], right[unequal], KEPT) if unequal.any() else []
    total.parts.append(part)
    return total
