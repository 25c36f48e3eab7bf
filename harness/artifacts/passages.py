"""Which passages two indexes share, in whatever order, by codes and residuals; see docs/comparing.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from harness.artifacts.meaning import chunks_in, places_of, within
from harness.artifacts.permutation import Permutation
from harness.artifacts.source import ArtifactSource
from harness.errors import UnreadableTensor
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.mapped import give_back
from harness.tensors.tensor import Tensor
from harness.tensors.threads import in_threads
from harness.words import count

_BLOCK = 1 << 16  # tokens that are looked at at a time: what is made of them fits the second-level cache
_RUN = 1 << 15  # passages of which a few tokens each are looked at at a time
_SKETCHED = 3  # so many tokens
_SHARE = 1 << 17  # passages that are matched at a time, until these are many shares


class Alignment:
    """How the passages of B are those of A.

    Attributes:
        sizes: tokens of each passage, of A and of B.
        starts: of A and of B, the row at which each chunk starts.
        to_a: A's number of each of B's passages, int32; -1 where A has none that is the same bit for bit. None where
            codes and residuals cannot be matched at all.
        likely: the same, and for the rest that of a passage with the same codes, whatever its residuals.
    """

    def __init__(self, left: _Tokens, right: _Tokens, matches: _Matches | None) -> None:
        self.sizes, self.starts, self._matches = (left.sizes, right.sizes), (left.starts, right.starts), matches
        self._right = right

    @property
    def to_a(self) -> Array | None:
        """See above."""
        return self._matches.exact if self._matches else None

    @property
    def likely(self) -> Array | None:
        """See above."""
        return self._matches.likely if self._matches else None

    @cached_property
    def lined_up(self) -> Array:
        """For each of B's passages, whether it is A's of that number: the same, or one that neither has elsewhere.

        What is found nowhere is taken to be in its place only where most of what is found is.
        """
        n = self.sizes[1].size
        if self._matches is None or not self._matches.in_place:
            return np.zeros(n, np.bool_)
        if not self._matches.rivals[1].size:  # then nothing is elsewhere, whether or not it is the same in its place
            return np.ones(n, np.bool_)
        likely = self._matches.likely
        found: Array = likely == np.arange(n, dtype=likely.dtype)
        if np.count_nonzero(likely >= 0) > 2 * np.count_nonzero(found):
            return found
        elsewhere = np.zeros(n, np.bool_)
        elsewhere[likely[likely >= 0]] = True
        return found | (likely < 0) & ~elsewhere

    def settle(self) -> None:
        """Find out now what is else found out when somebody asks."""
        _ = self.to_a, self.likely, self.lined_up

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
        start, begins = self.starts[1][chunk], self._right.begins
        # In the width that they have: NumPy would convert all of them for each chunk.
        inside, last = np.searchsorted(begins, np.array([start + 1, start + n], begins.dtype)).tolist()
        first = inside - 1
        begin = begins[first:last].astype(np.int64)
        # A passage may reach into the chunk from the one before, and out of it.
        here = np.clip(begin + self.sizes[1][first:last], start, start + n) - np.clip(begin, start, start + n)
        return np.repeat(self.lined_up[first:last], here)

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
    if np.array_equal(left.sizes, right.sizes):
        right.sizes = left.sizes  # held once: there may be many
    matchable = left.width == right.width != 0 and left.whole and right.whole
    if not matchable and left.sizes is right.sizes:
        return None
    return Alignment(left, right, _Matches(left, right) if matchable else None)


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
        fits = sizes.n == 0 or np.iinfo(np.int32).min <= sizes.flat.min() <= sizes.flat.max() <= np.iinfo(np.int32).max
        return cls(codes, residuals, rename, sizes.flat.astype(np.int32 if fits else np.int64, copy=False), block)

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

    @cached_property
    def begins(self) -> Array:
        """The row at which each passage begins, in half the width where that is enough: there may be many."""
        ends: Array = np.cumsum(self.sizes, dtype=np.uint32 if self._edges[-1] < 1 << 32 else np.int64)
        return np.subtract(ends, self.sizes, out=ends, casting="unsafe")

    def runs(self, which: Array) -> list[slice]:
        """Some passages in runs of about a block: which of `which` these are."""
        steps = np.cumsum(self.sizes[which]) // self._block
        edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), which.size]
        return [slice(start, stop) for start, stop in pairwise(edges) if start < stop]

    def take(self, which: Array, *, codes_alone: bool) -> _Rows:
        """The rows of some passages; where these follow one another they are mapped, not copied."""
        size = self.sizes[which]
        start, count = int(self.begins[which[0]]), int(size.sum())
        if count and (which[1:] == which[:-1] + 1).all():
            codes, residuals = self._stretch(start, start + count, codes_alone=codes_alone)
        else:
            begins = self.begins[which].astype(np.int64)
            codes, residuals = self._scattered(places_of(begins, size), codes_alone=codes_alone)
        mapped = [codes] if residuals is None else [codes, residuals]
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
            give_back(numbers.flat)  # each page that is asked for comes with its neighbours
            if not codes_alone:
                bits[here] = residuals.data[rows[here] - self._edges[part]]
                give_back(residuals.flat)
        return codes, None if codes_alone else bits

    def _picked(self, rows: Array) -> tuple[Array, list[Array]]:
        """The codes of these rows, which are in order, and what is mapped of the chunks for it."""
        cut = np.searchsorted(rows, self._edges).tolist()
        held = [
            (numbers.flat[int(rows[one]) - first : int(rows[end - 1]) - first + 1], slice(one, end), int(rows[one]))
            for (numbers, _), first, (one, end) in zip(self._parts, self._edges.tolist(), pairwise(cut), strict=False)
            if one < end
        ]
        codes = [numbers[rows[here] - begin].astype(np.int64) for numbers, here, begin in held]
        return np.concatenate([np.empty(0, np.int64), *codes]), [numbers for numbers, _, _ in held]

    def sketches(self) -> Iterator[tuple[slice, Array]]:
        """A number for each passage from its length and a few of its codes: those with equal codes have the same.

        Yields:
            Which passages, run by run, and their numbers, uint64.
        """
        picked = range(1, 2 * _SKETCHED, 2)  # the first token is the same in all passages
        weights = _mix(np.array(picked, np.uint64))
        starts = range(0, self.sizes.size, _RUN)
        first_rows = np.cumsum([0, *(self.sizes[start : start + _RUN].sum() for start in starts)])

        def look(start: int) -> tuple[slice, Array]:
            here = slice(start, start + _RUN)
            size = self.sizes[here]
            filled = np.flatnonzero(size)
            begins = first_rows[start // _RUN] + (np.cumsum(size) - size)[filled]
            found, held = size.astype(np.uint64), []
            for nth, weight in zip(picked, weights, strict=True):
                codes, mapped = self._picked(begins + size[filled].astype(np.int64) * nth // (2 * _SKETCHED))
                codes = codes if self._rename is None else self._rename[codes]
                found[filled] += codes.astype(np.uint64) * weight
                held += mapped
            give_back(*held)
            return here, _mix(found)

        return in_threads(look, starts)

    def digests(self, which: Array, *, codes_alone: bool) -> Array:
        """A number for each of these passages by codes and residuals; what shares one is compared bit by bit."""

        def look(run: slice) -> Array:
            codes, words, mapped = self.take(which[run], codes_alone=codes_alone)
            size = self.sizes[which[run]]
            mixed = _mix(codes.astype(np.uint64))
            for word in words:
                mixed = _mix(mixed ^ word)
            give_back(*mapped)
            position = places_of(np.zeros(size.size, np.int64), size).view(np.uint64)
            return _mix(_sums(_mix(mixed ^ _mix(position)), size) ^ size.astype(np.uint64))

        return np.concatenate([np.empty(0, np.uint64), *in_threads(look, self.runs(which))])


class _Matches:
    """Which of A's passages each of B's is: in place first, then wherever it is.

    Only of `rivals`, which the other side may have at another place, is it looked for elsewhere, and only of these does
    it matter whether they are the same bit for bit or in their codes; of all others, not before somebody asks.
    """

    def __init__(self, a: _Tokens, b: _Tokens) -> None:
        self.a, self.b = a, b
        self.in_place = a.sizes is b.sizes
        self.rivals = _rivals(a, b, in_place=self.in_place)

    @cached_property
    def exact(self) -> Array:
        """A's number of each of B's passages that is the same bit for bit; -1 for none."""
        return self._put_in_place(self._among_rivals.copy(), codes_alone=False)

    @cached_property
    def likely(self) -> Array:
        """The same, and then that of a passage with the same codes."""
        return self._put_elsewhere(self._put_in_place(self._among_rivals.copy(), codes_alone=True), codes_alone=True)

    @cached_property
    def _among_rivals(self) -> Array:
        to_a = np.full(self.b.sizes.size, -1, np.int32)
        if self.in_place:
            both = np.union1d(*self.rivals)
            same = both[_same(self.a, self.b, both, both, codes_alone=False)]
            to_a[same] = same
        return self._put_elsewhere(to_a, codes_alone=False)

    def _free(self, to_a: Array) -> Array:
        """Which of A's passages are nobody's."""
        free = np.ones(self.a.sizes.size, np.bool_)
        free[to_a[to_a >= 0]] = False
        return free

    def _put_in_place(self, to_a: Array, *, codes_alone: bool) -> Array:
        """Match those that are the same in their place; where some of a stretch wait, all of it is looked at."""
        waiting = self._free(to_a) & (to_a < 0) if self.in_place else np.empty(0, np.bool_)
        for start in range(0, waiting.size, _SHARE):
            here = np.arange(start, min(start + _SHARE, waiting.size))
            if waiting[here].any():
                same = here[waiting[here] & _same(self.a, self.b, here, here, codes_alone=codes_alone)]
                to_a[same] = same
        return to_a

    def _put_elsewhere(self, to_a: Array, *, codes_alone: bool) -> Array:
        """Match those that are the same at any place."""
        a, b = self.a, self.b
        waiting = self.rivals[0][self._free(to_a)[self.rivals[0]]], self.rivals[1][to_a[self.rivals[1]] < 0]
        keys = [side.digests(which, codes_alone=codes_alone) for side, which in zip((a, b), waiting, strict=True)]

        def look(pick: Callable[[Array], Array]) -> list[Array]:
            """Which passages of the two sides have the same number; of several, the first the other's first."""
            share = [pick(key) for key in keys]
            own = [key[here] for key, here in zip(keys, share, strict=True)]
            group = np.unique(np.concatenate(own), return_inverse=True)[1]
            ranked = _ranked(group[: own[0].size]), _ranked(group[own[0].size :])
            _, *found = np.intersect1d(*ranked, assume_unique=True, return_indices=True)
            found = [which[here[one]] for which, here, one in zip(waiting, share, found, strict=True)]
            return [one.astype(np.int32) for one in found]

        left, right = (np.concatenate(side) for side in zip(*in_threads(look, _shares(*keys)), strict=True))
        # In A's order, in which each of its pages is needed once: those of a share are from all over the index.
        order = np.argsort(left)
        order = order[a.sizes[left[order]] == b.sizes[right[order]]]
        left, right = left[order], right[order]
        same = _same(a, b, left, right, codes_alone=codes_alone)
        to_a[right[same]] = left[same]
        return to_a


def _rivals(a: _Tokens, b: _Tokens, *, in_place: bool) -> tuple[Array, Array]:
    """Passages of A and of B, in order, among which are all that have the codes of one at another place of the other.

    Where they are not compared `in_place`, any place of the other is another.
    """
    keys, new, found = np.empty(a.sizes.size, np.uint64), [np.empty(0, np.int32)], [np.empty(0, np.uint64)]
    for here, key in a.sketches():
        keys[here] = key
    for here, key in b.sketches():  # of those that have A's number in their place there is no need to keep another
        apart = np.flatnonzero(key != keys[here]) if in_place else np.arange(key.size)
        new.append((here.start + apart).astype(np.int32))
        found.append(key[apart])
    at, others = np.concatenate(new), np.concatenate(found)

    def look(pick: Callable[[Array], Array]) -> tuple[Array, Array]:
        share, other = pick(keys), pick(others)
        once = np.concatenate([keys[share], others[other]])
        once.sort()
        again = once[1:][once[1:] == once[:-1]]
        return share[_among(keys[share], again)], at[other[_among(others[other], again)]]

    looked = zip(*in_threads(look, _shares(keys, others)), strict=True)
    left, right = (np.concatenate(side) for side in looked)
    if in_place:
        right = np.concatenate([right, np.setdiff1d(left, at, assume_unique=True)])
    return np.sort(left), np.sort(right)


def _among(values: Array, some: Array) -> Array:
    """Which values are among some others, which are in order."""
    if not some.size:
        return np.zeros(values.size, np.bool_)
    found: Array = some[np.minimum(np.searchsorted(some, values), some.size - 1)] == values
    return found


def _shares(*keys: Array) -> list[Callable[[Array], Array]]:
    """Functions that say where the numbers of one share are: equal ones are in the same, of at most sixteen."""
    bits = min((max(key.size for key in keys) // _SHARE).bit_length(), 4)

    def pick(share: int, key: Array) -> Array:
        highest = key.view(np.uint8)[7::8]  # of each number's bytes: there may be millions, and all of them fill memory
        return np.flatnonzero(highest >> (8 - bits) == share)

    return [partial(pick, share) for share in range(1 << bits)]


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
