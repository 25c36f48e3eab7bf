"""Which passages two indexes share, in whatever order, by codes and residuals; see docs/comparing.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from harness.artifacts.meaning import chunks_in, places_of, within
from harness.artifacts.permutation import Permutation
from harness.artifacts.source import ArtifactSource
from harness.errors import UnreadableTensor
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.mapped import give_back, take_in
from harness.tensors.passes import in_threads
from harness.tensors.tensor import Tensor
from harness.words import count

_BLOCK = 1 << 16  # tokens that are looked at at a time: what is made of them fits the second-level cache
_SHARE = 1 << 17  # passages that are matched at a time, until these are many shares
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64


@dataclass(frozen=True)
class Alignment:
    """How the passages of B are those of A.

    Attributes:
        sizes: tokens of each passage, of A and of B.
        to_a: A's number of each of B's passages, int64; -1 where A has none that is the same bit for bit. None where
            codes and residuals cannot be matched at all.
        likely: the same, and for the rest that of a passage with the same codes, whatever its residuals.
        starts: of A and of B, the row at which each chunk starts.
    """

    sizes: tuple[Array, Array]
    to_a: Array | None
    likely: Array | None
    starts: tuple[dict[int, int], dict[int, int]]

    @cached_property
    def lined_up(self) -> Array:
        """For each of B's passages, whether it is A's of that number: the same, or one that neither has elsewhere.

        What is found nowhere is taken to be in its place only where most of what is found is.
        """
        n = self.sizes[1].size
        if not np.array_equal(*self.sizes):
            return np.zeros(n, np.bool_)
        assert self.likely is not None  # passages of equal lengths that cannot be matched have no alignment
        found: Array = self.likely == np.arange(n)
        if np.count_nonzero(self.likely >= 0) > 2 * np.count_nonzero(found):
            return found
        elsewhere = np.zeros(n, np.bool_)
        elsewhere[self.likely[self.likely >= 0]] = True
        return found | (self.likely < 0) & ~elsewhere

    @property
    def whole(self) -> bool:
        """Whether every row of one side is that row of the other."""
        same = self.starts[0] == self.starts[1] and self.sizes[0].size == self.sizes[1].size
        return same and bool(self.lined_up.all())

    @property
    def one_to_one(self) -> bool:
        """Whether both have the same passages, bit for bit, in whatever order."""
        return self.to_a is not None and self.sizes[0].size == self.to_a.size and bool((self.to_a >= 0).all())

    def rows(self, chunk: int, n: int) -> Array:
        """For each of the `n` rows of a chunk, whether it is the same token's on both sides."""
        if self.starts[0].get(chunk) != self.starts[1].get(chunk) or not self.lined_up.any():
            return np.zeros(n, np.bool_)
        start = self.starts[1][chunk]
        ends = np.cumsum(self.sizes[1])
        here = np.clip(ends, start, start + n) - np.clip(ends - self.sizes[1], start, start + n)
        return np.repeat(self.lined_up, here)

    def facts(self) -> dict[str, Any]:
        """What is known of the passages, by the names of the JSON."""
        facts: dict[str, Any] = {"passages_n_a": self.sizes[0].size, "passages_n": self.sizes[1].size}
        if self.to_a is None:
            return facts | {"passages_matched": None, "passages_reordered": None}
        same = self.to_a >= 0
        moved = same & (self.to_a != np.arange(same.size))
        return facts | {
            "passages_matched": int(np.count_nonzero(same)),
            "passages_reordered": int(np.count_nonzero(moved)),
        }

    def sentence(self) -> str:
        """What must be known before any row is looked at."""
        facts = self.facts()
        n, matched, moved = (facts[f"passages_{name}"] for name in ("n", "matched", "reordered"))
        nothing = "rows do not line up, and nothing is said of moves, margins, buckets or origins"
        if self.one_to_one and moved:
            return f"A and B hold the same {n:,} passages, bit for bit, {moved:,} of them at another place: {nothing}."
        if self.one_to_one:
            return f"A and B hold the same {n:,} passages in one order, cut into other chunks: {nothing}."
        if np.array_equal(*self.sizes):
            lined = int(np.count_nonzero(self.lined_up))
            assert self.likely is not None
            elsewhere = int(np.count_nonzero((self.likely >= 0) & (self.likely != np.arange(n))))
            told = f"moves, margins and buckets are told of the {lined:,} that line up."
            if elsewhere == moved:
                return f"{moved:,} of B's {n:,} passages are bit for bit those that A has at another place: {told}"
            return (
                f"{elsewhere:,} of B's {n:,} passages have the codes of those that A has at another place, {moved:,} "
                f"of them bit for bit: {told}"
            )
        among = ""
        if matched is not None:
            of_a = f"bit for bit among A's {facts['passages_n_a']:,}"
            among = (
                f" Of B's {count(n, 'passage')} {matched:,} are {of_a}, {moved:,} of them at another place."
                if matched
                else f" None of B's {count(n, 'passage')} is {of_a}."
            )
        return f"The lengths of the passages (doclens) differ: {nothing}.{among}"


def align(
    a: ArtifactSource, b: ArtifactSource, permutation: Permutation | None = None, *, block: int = _BLOCK
) -> Alignment | None:
    """Match the passages of two indexes; None where it is not known which rows are a passage's.

    Args:
        a: the older side.
        b: the newer.
        permutation: B's centroids in A's order, which is undone in its codes.
        block: tokens that are looked at at a time.
    """
    try:
        left, right = _Tokens.of(a, None, block), _Tokens.of(b, permutation, block)
    except UnreadableTensor:
        return None
    if left is None or right is None:
        return None
    matchable = left.width == right.width != 0 and left.whole and right.whole
    if not matchable and np.array_equal(left.sizes, right.sizes):
        return None
    to_a = _match(left, right, np.full(right.sizes.size, -1)) if matchable else None
    likely = None if to_a is None else _match(left, right, to_a, codes_alone=True)
    return Alignment((left.sizes, right.sizes), to_a, likely, (left.starts, right.starts))


class _Rows(NamedTuple):
    """Rows of passages: codes by A's centroids, residuals as words, a column each; `mapped` is to be given back."""

    codes: Array
    words: list[Array]
    mapped: list[Array]


class _Tokens:
    """Codes and residuals of all chunks of a side, one after the other, and `sizes`, how many each passage has."""

    def __init__(
        self, codes: dict[int, Tensor], residuals: dict[int, Tensor], rename: Array | None, sizes: Array, block: int
    ) -> None:
        self._parts = [(codes[chunk], residuals.get(chunk)) for chunk in sorted(codes)]
        self._rename, self.sizes, self._block = rename, sizes, block
        self._begins = np.cumsum(sizes) - sizes
        self._edges = np.cumsum([0, *(part.n for part, _ in self._parts)])
        self.starts = dict(zip(sorted(codes), self._edges[:-1].tolist(), strict=True))

    @classmethod
    def of(cls, source: ArtifactSource, permutation: Permutation | None, block: int) -> _Tokens | None:
        """Open a side; None where it has no lengths of passages, `UnreadableTensor` where a chunk cannot be read."""
        sizes = source.load("doclens") if "doclens" in source.names() else None
        if sizes is None or DTYPES[sizes.dtype].kind != "int":
            return None
        codes, residuals = (
            {chunk: source.load(name) for chunk, name in chunks_in(source, pattern).items()}
            for pattern in ("*.codes", "*.residuals")
        )
        renamed = permutation is not None and all(within(one, permutation.to_a.size) for one in codes.values())
        rename = permutation.to_a if permutation is not None and renamed else None
        return cls(codes, residuals, rename, sizes.flat.astype(np.int64, copy=False), block)

    @cached_property
    def width(self) -> int:
        """Bytes in a row of residuals; 0 where chunks lack theirs, or it is not one and the same."""
        widths = set()
        for codes, residuals in self._parts:
            if residuals is None or residuals.dtype != "uint8" or DTYPES[codes.dtype].kind != "int":
                return 0
            if len(residuals.shape) != 2 or residuals.shape[0] != codes.n:
                return 0
            widths.add(residuals.shape[1])
        return widths.pop() if len(widths) == 1 else 0

    @property
    def whole(self) -> bool:
        """Whether the lengths are those of the rows: each by itself first, for a sum of absurd ones may wrap around."""
        sizes, n = self.sizes, int(self._edges[-1])
        return sizes.size == 0 or bool(0 <= sizes.min() <= sizes.max() <= n and sizes.sum() == n)

    def runs(self, which: Array) -> list[slice]:
        """Some passages in runs of about a block: which of `which` these are."""
        steps = np.cumsum(self.sizes[which]) // self._block
        edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), which.size]
        return [slice(start, stop) for start, stop in pairwise(edges) if start < stop]

    def take(self, which: Array, *, codes_alone: bool) -> _Rows:
        """The rows of some passages; where these follow one another they are mapped, not copied."""
        size = self.sizes[which]
        start, count = int(self._begins[which[0]]), int(size.sum())
        if count and (which[1:] == which[:-1] + 1).all():
            codes, residuals = self._stretch(start, start + count, codes_alone=codes_alone)
        else:
            codes, residuals = self._scattered(places_of(self._begins[which], size), codes_alone=codes_alone)
        mapped = [codes] if residuals is None else [codes, residuals]
        take_in(*mapped)
        words = []
        if residuals is not None:
            whole = self.width // 8 * 8
            words = list(np.ascontiguousarray(residuals[:, :whole]).view(np.uint64).T)
            words += [column.astype(np.uint64) for column in residuals[:, whole:].T]
        return _Rows(codes if self._rename is None else self._rename[codes], words, mapped)

    def _stretch(self, start: int, stop: int, *, codes_alone: bool) -> tuple[Array, Array | None]:
        """Codes and residuals of the rows from `start` to `stop`."""
        codes, residuals = [], []
        first, last = np.searchsorted(self._edges, start, "right") - 1, np.searchsorted(self._edges, stop)
        for (numbers, bits), begin in zip(self._parts[first:last], self._edges[first:last].tolist(), strict=True):
            here = slice(max(start - begin, 0), stop - begin)
            codes.append(numbers.flat[here])
            assert bits is not None  # else there is no width
            residuals.append(bits.data[here])
        if len(codes) > 1:  # in which only a passage that two chunks share would be
            codes, residuals = ([np.concatenate(side)] for side in (codes, residuals))
        return codes[0], None if codes_alone else residuals[0]

    def _scattered(self, rows: Array, *, codes_alone: bool) -> tuple[Array, Array | None]:
        """Codes and residuals of these rows."""
        codes, bits = np.empty(rows.size, np.int64), np.empty((0 if codes_alone else rows.size, self.width), np.uint8)
        owner = np.searchsorted(self._edges, rows, "right") - 1
        for part in np.flatnonzero(np.bincount(owner)):
            here = owner == part
            numbers, residuals = self._parts[part]
            codes[here] = numbers.flat[rows[here] - self._edges[part]]
            assert residuals is not None
            if not codes_alone:
                bits[here] = residuals.data[rows[here] - self._edges[part]]
        return codes, None if codes_alone else bits

    @cached_property
    def by_codes(self) -> Array:
        """A number for each passage; those with equal codes have the same. What shares one is compared code by code.

        It is a polynomial of the codes modulo 2**64, so that one table of powers serves all passages of a run.
        """
        everything = np.arange(self.sizes.size)

        def look(run: slice) -> Array:
            codes, _, mapped = self.take(everything[run], codes_alone=True)
            size = self.sizes[run]
            begins = np.cumsum(size) - size
            sums = _sums(codes.astype(np.uint64) * _powers(_BASE, codes.size), size)
            give_back(*mapped)
            return _mix(sums * _powers(pow(_BASE, -1, 1 << 64), codes.size + 1)[begins] ^ size.view(np.uint64))

        return np.concatenate([np.empty(0, np.uint64), *in_threads(look, self.runs(everything))])

    def digests(self, which: Array) -> Array:
        """A number for each of these passages by codes and residuals; what shares one is compared bit by bit."""

        def look(run: slice) -> Array:
            codes, words, mapped = self.take(which[run], codes_alone=False)
            size = self.sizes[which[run]]
            mixed = _mix(codes.astype(np.uint64))
            for word in words:
                mixed = _mix(mixed ^ word)
            give_back(*mapped)
            position = places_of(np.zeros_like(size), size).view(np.uint64)
            return _mix(_sums(_mix(mixed ^ _mix(position)), size) ^ size.view(np.uint64))

        return np.concatenate([np.empty(0, np.uint64), *in_threads(look, self.runs(which))])


@lru_cache(maxsize=8)
def _powers_of(base: int, count: int) -> Array:
    found: Array = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(count - 1, base, np.uint64)]))
    return found


def _powers(base: int, count: int) -> Array:
    """The first `count` powers of a number modulo 2**64, from a table that is made once for the usual counts."""
    return _powers_of(base, max(1 << max(count - 1, 1).bit_length(), 2))[:count]


def _match(a: _Tokens, b: _Tokens, known: Array, *, codes_alone: bool = False) -> Array:
    """A's number of each of B's passages beside those `known`, -1 for none: in place first, then wherever it is."""
    to_a, free = known.copy(), np.ones(a.sizes.size, np.bool_)
    free[known[known >= 0]] = False
    if np.array_equal(a.sizes, b.sizes):
        both = np.flatnonzero(free & (to_a < 0))
        same = both[_same(a, b, both, both, codes_alone=codes_alone)]
        to_a[same] = same
        free[same] = False
    waiting = [np.flatnonzero(free), np.flatnonzero(to_a < 0)]
    if codes_alone:
        keys = [side.by_codes[which] for side, which in zip((a, b), waiting, strict=True)]
    else:
        waiting = _with_others(a, b, *waiting)
        keys = [side.digests(which) for side, which in zip((a, b), waiting, strict=True)]

    def look(pick: Callable[[Array], Array]) -> list[Array]:
        """Which of the two sides' waiting passages have the same number; of several, the first the other's first."""
        share = [pick(key) for key in keys]
        own = [key[here] for key, here in zip(keys, share, strict=True)]
        group = np.unique(np.concatenate(own), return_inverse=True)[1]
        ranked = _ranked(group[: own[0].size]), _ranked(group[own[0].size :])
        _, *found = np.intersect1d(*ranked, assume_unique=True, return_indices=True)
        return [which[here[one]] for which, here, one in zip(waiting, share, found, strict=True)]

    for pair in in_threads(look, _shares(*keys)):
        alike = a.sizes[pair[0]] == b.sizes[pair[1]]
        left, right = (side[alike] for side in pair)
        same = _same(a, b, left, right, codes_alone=codes_alone)
        to_a[right[same]] = left[same]
    return to_a


def _shares(*keys: Array) -> list[Callable[[Array], Array]]:
    """Functions that say where the numbers of one share are: equal ones are in the same, of at most sixteen."""
    bits = min((max(key.size for key in keys) // _SHARE).bit_length(), 4)

    def pick(share: int, key: Array) -> Array:
        return np.flatnonzero(key >> np.uint64(60) >> np.uint64(4 - bits) == share)

    return [partial(pick, share) for share in range(1 << bits)]


def _with_others(a: _Tokens, b: _Tokens, *waiting: Array) -> list[Array]:
    """Of passages that are not the same in place, those whose codes the other side has at another place."""
    keys = [side.by_codes[which] for side, which in zip((a, b), waiting, strict=True)]
    in_place = np.zeros(max(a.sizes.size, b.sizes.size), np.bool_)
    if np.array_equal(a.sizes, b.sizes):
        in_place[waiting[0]] = True
        in_place[waiting[1]] &= a.by_codes[waiting[1]] == keys[1]

    def look(pick: Callable[[Array], Array]) -> list[Array]:
        share = [pick(key) for key in keys]
        own = [np.sort(key[here]) for key, here in zip(keys, share, strict=True)]
        found = []
        for which, key, unordered, theirs in zip(waiting, keys, share, own[::-1], strict=True):
            here = unordered[np.argsort(key[unordered])]  # what is looked for in order is found in the cache
            there = np.searchsorted(theirs, key[here], "right") - np.searchsorted(theirs, key[here], "left")
            found.append(which[here[there > in_place[which[here]]]])
        return found

    looked = zip(*in_threads(look, _shares(*keys)), strict=True)
    return [np.sort(np.concatenate(side)) for side in looked]


def _ranked(group: Array) -> Array:
    """Each element's group and which of its group it is, as one number."""
    order = np.argsort(group, kind="stable")
    found = group[order]
    first = np.searchsorted(found, found)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size) - first
    return (group.astype(np.int64) << 32) | rank


def _sums(values: Array, size: Array) -> Array:
    """The sum of each passage's values: modulo 2^64 where they are uint64, and of booleans whether any is true."""
    sums, filled = np.zeros(size.size, values.dtype), size > 0
    if filled.any():
        sums[filled] = np.add.reduceat(values, (np.cumsum(size) - size)[filled])
    return sums


def _same(a: _Tokens, b: _Tokens, left: Array, right: Array, *, codes_alone: bool) -> Array:
    """Whether passage `left[i]` of A, of the same length, is passage `right[i]` of B, bit for bit."""

    def look(run: slice) -> Array:
        one, other = a.take(left[run], codes_alone=codes_alone), b.take(right[run], codes_alone=codes_alone)
        apart = one.codes != other.codes
        for word, theirs in zip(one.words, other.words, strict=True):
            apart |= word != theirs
        give_back(*one.mapped, *other.mapped)
        whole: Array = ~_sums(apart, a.sizes[left[run]])
        return whole

    found: Array = np.concatenate([np.empty(0, np.bool_), *in_threads(look, a.runs(left))])
    return found


def _mix(values: Array) -> Array:
    """Spread the bits of 64-bit numbers: the finalizer of splitmix64 (Steele, Lea, Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed
