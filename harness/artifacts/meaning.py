"""What the numbers of a ColBERT index mean: buckets, codes, centroids and inverted lists, compared as what they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from harness.artifacts.kind import chunk_of
from harness.artifacts.permutation import Permutation, lengths, numbers_of, unit
from harness.artifacts.source import ArtifactSource, facts_of, metadata_file, setting
from harness.errors import UnreadableTensor
from harness.tensors.dtypes import DTYPES, Array, decode
from harness.tensors.mapped import give_back, is_large
from harness.tensors.one_byte import pair_counts
from harness.tensors.passes import each_chunk
from harness.tensors.tensor import Tensor
from harness.tensors.threads import in_threads

NEAR_TIE = 2.0**-10
"""A code moved in a near-tie when the two centroids' scores differ by no more than this: one float16 step at 1.0.

Scores are dot products of unit vectors that were rounded to float16, so two correct computations of them may differ by
as much.
"""

_ROWS = 512  # moved codes whose margins are computed at a time: fewer would be Python's time
_STRIP = 1 << 18  # codes, and entries of inverted lists, that are looked at at a time
_PASSAGES = 1 << 40  # more than any index has
_SAMPLE = 200_000  # moved codes whose margins are computed


def unpack_table(nbits: int) -> Array:
    """Bucket numbers of each byte, shape (256, 8 // nbits), int64, first value first.

    colbert-ai emits a bucket number's bits lowest first and packs them into bytes highest first (`binarize` and NumPy's
    `packbits`), so the number in a byte's top bits is bit-reversed.
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, 8 // nbits, nbits)
    table: Array = (bits.astype(np.int64) << np.arange(nbits)).sum(axis=2)
    return table


def shape_of(source: ArtifactSource, name: str) -> tuple[int, ...] | None:
    """An artifact's shape, without loading it where that is known; None where it is not there or cannot be read."""
    found = (facts_of(source, name) if name in source.names() else None) or _try_load(source, name)
    return found.shape if found is not None else None


def dim_of(source: ArtifactSource) -> int | None:
    """The dimensions of an embedding: the centroids', else what the settings say; None where untold."""
    centroids = shape_of(source, "centroids") or ()
    return centroids[1] if len(centroids) == 2 else setting(source, "dim")


def nbits_of(source: ArtifactSource) -> int | None:
    """Bits per residual dimension: what the tensors say, else the settings; None where untold, or told in two ways."""
    by_weights, by_packing = _widths(source)
    if by_weights and by_packing and by_weights != by_packing:
        return None
    return by_weights or by_packing or setting(source, "nbits")


def _widths(source: ArtifactSource) -> tuple[int | None, int | None]:
    """Bits per residual dimension: by the number of bucket weights, and by how many bytes a row of residuals has."""
    buckets = math.prod(shape_of(source, "bucket_weights") or (0,))
    by_weights = buckets.bit_length() - 1 if buckets > 1 and buckets.bit_count() == 1 else None
    centroids, first = shape_of(source, "centroids") or (), next(iter(chunks_in(source, "*.residuals").values()), "")
    packed = shape_of(source, first) or ()
    bits, dim = (packed[1] * 8, centroids[1]) if len(packed) == len(centroids) == 2 else (0, 0)
    return by_weights, bits // dim if dim and bits and bits % dim == 0 else None


def chunks_in(source: ArtifactSource, pattern: str) -> dict[int, str]:
    """The artifacts of a pattern by their chunk, in the order of the source's names."""
    found = ((chunk_of(name, pattern), name) for name in source.names())
    return {int(chunk): name for chunk, name in found if chunk is not None}


def _told_by_tensors(source: ArtifactSource) -> dict[str, int | None]:
    """Settings that can be read off the tensors; None where these are not there, or not all of them."""
    centroids = shape_of(source, "centroids") or ()
    codes = chunks_in(source, "*.codes")
    rows = [shape_of(source, name) or () for name in codes.values()]
    last = max(codes, default=-1)
    whole = last + 1 == len(rows) and all(len(one) == 1 for one in rows)
    known, counted = centroids if len(centroids) == 2 else (None, None), setting(source, "num_chunks")
    return {
        "nbits": nbits_of(source) if any(_widths(source)) else None,
        "dim": known[1],
        "num_partitions": known[0],
        # Fewer files than are counted are an index that is not whole.
        "num_chunks": last + 1 if counted is not None and last + 1 > counted else None,
        "num_embeddings": sum(one[0] for one in rows) if rows and whole and last + 1 == counted else None,
    }


def contradictions(source: ArtifactSource) -> Iterator[str]:
    """Where an index's settings and its tensors say different things: sentences without a subject.

    colbert-ai never looks: it takes the settings of whoever opens the index last, so they may be another index's.
    """
    by_weights, by_packing = _widths(source)
    if by_weights and by_packing and by_weights != by_packing:
        yield (
            f"has bucket_weights for {by_weights} bits a dimension and residuals packed at {by_packing}: "
            "its bucket numbers are not counted."
        )
    for name, found in _told_by_tensors(source).items():
        told = setting(source, name)
        if found is not None and told is not None and found != told:
            file = metadata_file(source)
            yield f"says {name} = {told:,} in {file}, and its tensors say {found:,}; they are believed."


def bucket_facts(a: Tensor, b: Tensor, nbits: int) -> dict[str, Any]:
    """How many bucket numbers changed, and by how many buckets, from two tensors of packed residuals of equal shape."""
    counts = pair_counts(a, b)
    buckets = np.arange(2**nbits)
    pairs = np.zeros((buckets.size, buckets.size))
    for numbers in unpack_table(nbits).T:
        chosen = (numbers[:, None] == buckets).astype(np.float64)
        pairs += chosen.T @ counts.pairs.astype(np.float64) @ chosen
    steps = np.abs(buckets[:, None] - buckets)
    histogram = np.bincount(steps.ravel(), weights=pairs.ravel()).astype(np.int64)
    histogram[0] += counts.same * (8 // nbits)
    total, changed = int(histogram.sum()), int(histogram[1:].sum())
    moved = np.arange(histogram.size)
    return {
        "nbits": nbits,
        "buckets_n": total,
        "buckets_n_mismatch": changed,
        "buckets_max_step": int(moved[histogram > 0].max()) if total else 0,
        "buckets_mean_step": float((histogram * moved).sum() / changed) if changed else 0.0,
        "buckets_steps": {str(step): int(histogram[step]) for step in moved[1:] if histogram[step]},
    }


@dataclass
class Embeddings:
    """The embeddings of one chunk on one side: captured ones, or centroid plus residual, normalised."""

    centroids: Tensor  # (centroids, dim)
    codes: Tensor
    embs: Tensor | None
    packed: tuple[Tensor, Array] | None  # where there are no captured ones: residuals, and bucket weights

    @cached_property
    def _steps(self) -> Array:
        """The weights that each byte of a residual stands for, shape (256, 8 // nbits)."""
        assert self.packed is not None
        weights = self.packed[1]
        table: Array = weights[unpack_table(weights.size.bit_length() - 1)]
        return table

    @classmethod
    def of(cls, source: ArtifactSource, chunk: int, codes: Tensor) -> Embeddings | None:  # noqa: PLR0911
        """Open what a source has; None where margins cannot be computed from it."""
        try:
            centroids = source.load("centroids")
            if len(centroids.shape) != 2 or DTYPES[centroids.dtype].kind != "float":
                return None
            count, dim = centroids.shape
            if not within(codes, count):
                return None
            embs = _try_load(source, f"embs_{chunk}")
            if embs is not None and embs.shape == (codes.n, dim):
                return cls(centroids, codes, embs, None)
            residuals, weights = source.load(f"{chunk}.residuals"), source.load("bucket_weights")
            nbits = weights.n.bit_length() - 1
            if nbits not in (1, 2, 4, 8) or weights.shape != (2**nbits,):
                return None
            if residuals.dtype != "uint8" or residuals.shape != (codes.n, dim * nbits // 8):
                return None
            return cls(centroids, codes, None, (residuals, decode(weights.flat, weights.dtype)))
        except UnreadableTensor:
            return None

    def rows(self, places: Array, centroids: Array) -> Array:
        """Embeddings at these rows, float64, (places, dim), by the centroids that they are nearest to."""
        if self.embs is not None:
            return numbers_of(self.embs, places)
        assert self.packed is not None
        residuals = self.packed[0].data
        # NumPy's `take` is many times faster here than the same by brackets.
        steps = self._steps.take(residuals.take(places, axis=0), axis=0).reshape(places.size, -1)
        if is_large(residuals):
            give_back(residuals[places[0] : places[-1] + 1])  # they are in order
        steps += centroids
        return unit(steps)

    def chosen(self, own: Array, other: Array) -> Array:
        """Two choices of centroids, (2, choices, bytes), by their numbers."""
        found = self.centroids.data.take(np.concatenate([own, other]), axis=0)
        return found.view(np.uint8).reshape(2, own.size, -1)

    def numbers(self, chosen: Array) -> Array:
        """The same as float64, (2, choices, dim)."""
        stored = chosen.view(self.centroids.data.dtype)
        return decode(stored.reshape(-1), self.centroids.dtype).reshape(stored.shape)

    def blur(self, apart: Array) -> Array:
        """How far a score difference may be off because residuals are quantised: two standard deviations.

        A bucket is about as wide as the distance of its weight to the next; a uniform error in it has a deviation of
        width / sqrt(12) per dimension, which the two centroids' difference, as long as `apart`, projects onto the
        scores.
        """
        blurred: Array = self._blur * apart if self.packed else np.zeros(apart.size)
        return blurred

    @cached_property
    def _blur(self) -> float:
        assert self.packed is not None
        return 2 * float(np.diff(np.sort(self.packed[1])).mean()) / math.sqrt(12)


def _try_load(source: ArtifactSource, name: str) -> Tensor | None:
    try:
        return source.load(name) if name in source.names() else None
    except UnreadableTensor:
        return None


def within(numbers: Tensor, count: int) -> bool:
    """Whether all of these integers are from 0 to below `count`."""
    most = _greatest(numbers)
    return most is not None and most < count


def _greatest(numbers: Tensor) -> int | None:
    """The greatest of some integers, -1 where there are none; None where one is below zero."""
    flat = numbers.flat
    limit = np.iinfo(flat.dtype).max

    def look(p: Array, _q: Array, _start: int) -> int:
        # Without their sign, negative numbers are above all others: one look at each says both.
        return int(p.view(f"<u{p.itemsize}").max())

    most = max(each_chunk(flat, flat, _STRIP, look, None), default=-1)
    return None if most > limit else most


def code_facts(
    a: ArtifactSource,
    b: ArtifactSource,
    chunk: int,
    pair: tuple[Tensor, Tensor],
    permutation: Permutation | None,
    same_token: Array | None = None,
    *,
    same_centroids: bool = False,
    strip: int = _STRIP,
    sample: int = _SAMPLE,
) -> dict[str, Any]:
    """Tell codes that moved in a near-tie from codes that really moved, after undoing a permutation of the centroids.

    The margin of a moved code is the greater of two differences: on side A the score of A's choice minus that of B's
    choice, and on side B the other way round, each with that side's own centroids and embeddings. Rows that are not
    `same_token` are left out: what stands there on the two sides is not the same. With `same_centroids` those of B are
    A's, bit for bit. `strip` codes are looked at at a time, and the margins of the first `sample` that moved are
    computed.
    """
    left, right = (side.flat for side in pair)
    to_a = permutation.to_a if permutation is not None and within(pair[1], permutation.to_a.size) else None

    def in_a(codes: Array) -> Array:
        """A's numbers for B's centroids."""
        return codes.astype(np.int64) if to_a is None else to_a[codes.astype(np.int64)]

    count, kept = 0, [np.empty(0, np.int64)]
    for start in range(0, left.size, strip):
        p, q = left[start : start + strip], right[start : start + strip]
        apart = p != q if to_a is None else p.astype(np.int64) != in_a(q)
        places = np.flatnonzero(apart if same_token is None else apart & same_token[start : start + strip])
        kept.append(start + places[: max(sample - count, 0)])
        count += places.size
        if is_large(left):
            give_back(p, q)
    facts: dict[str, Any] = {} if to_a is None else {"codes_n_mismatch_unpermuted": count}
    facts["codes_n_moved"] = count
    one, other = Embeddings.of(a, chunk, pair[0]), Embeddings.of(b, chunk, pair[1])
    if count == 0 or one is None or other is None or one.centroids.shape != other.centroids.shape:
        return facts | {"codes_margin_source": None}
    # A's name for B's choice, and B's name for A's choice.
    to_b = np.argsort(to_a) if to_a is not None else None
    moved = np.concatenate(kept)

    def look(start: int) -> tuple[Array, Array]:
        """Margins and limits of some moved codes."""
        rows = moved[start : start + _ROWS]
        mine, theirs = left[rows].astype(np.int64), right[rows].astype(np.int64)
        with np.errstate(invalid="ignore", over="ignore"):  # centroids that are not finite have no margin, and say so
            choices = one.chosen(mine, in_a(theirs))
            ours, others = one.numbers(choices)
            gap = ours - others
            m_a, l_a = (one.rows(rows, ours) * gap).sum(axis=1), NEAR_TIE + one.blur(apart := lengths(gap))
            found = choices if same_centroids else other.chosen(mine if to_b is None else to_b[mine], theirs)
            if found is not choices and not np.array_equal(choices, found):  # mostly the same, if in another order
                ours, others = other.numbers(found)
                gap = ours - others
                apart = lengths(gap)
            m_b, l_b = 0.0 - (other.rows(rows, others) * gap).sum(axis=1), NEAR_TIE + other.blur(apart)
        return np.maximum(m_a, m_b), np.maximum(l_a, l_b)

    looked = zip(*in_threads(look, range(0, moved.size, _ROWS)), strict=True)
    margin, limit = (np.concatenate(side) for side in looked)
    ties = int(np.count_nonzero(margin <= limit))
    captured = one.embs is not None and other.embs is not None
    return facts | {
        "codes_margin_source": "embeddings" if captured else "reconstructed",
        "codes_judged": int(moved.size),
        "codes_near_ties": ties,
        "codes_real_moves": int(moved.size) - ties,
        "codes_margin_p50": float(np.median(margin)),
        "codes_margin_max": float(margin.max()),
        "codes_near_tie_rule": "margin <= 2**-10"
        + ("" if captured else " + 2 * bucket width / sqrt(12) * distance of the two centroids"),
    }


def ivf_facts(
    pair: tuple[Tensor, Tensor],
    lengths: tuple[Tensor, Tensor],
    permutation: Permutation | None,
    passages: Array | None = None,
    *,
    strip: int = _STRIP,
) -> dict[str, Any]:
    """Compare inverted lists per centroid as sets, whatever the lengths; zeros after the last list are padding.

    Args:
        pair: `ivf` of A and B.
        lengths: `ivf_lengths` of A and B, one entry a centroid.
        permutation: B's centroids in A's order.
        passages: A's number of each of B's passages, where they are not the same.
        strip: entries that are looked at at a time.
    """
    facts: dict[str, Any] = {}
    shift = (0 if passages is None else passages.size).bit_length()
    sizes = [length.flat.astype(np.int64) for length in lengths]
    if sizes[0].size != sizes[1].size:
        return {"ivf_note": f"{sizes[0].size} against {sizes[1].size} centroids: the lists have no counterparts"}
    for ivf, size, name in zip(pair, sizes, "ab", strict=True):
        # Each by itself first: the sum of absurd lengths could wrap around to a small number.
        if size.size and (size.min() < 0 or size.max() > ivf.n or int(size.sum()) > ivf.n):
            return {"ivf_note": f"ivf_lengths of {name.upper()} do not add up to the length of its ivf"}
        most = _greatest(ivf)
        if most is None or most >= (_PASSAGES if passages is None else passages.size):
            return {"ivf_note": f"ivf of {name.upper()} holds what is no passage's number"}
        shift = max(shift, max(most, 0).bit_length())
        facts[f"ivf_padding_{name}"] = ivf.n - int(size.sum())
    count = sizes[0].size
    rows_b = np.arange(count)
    if permutation is not None and permutation.to_a.size == count:
        rows_b = np.argsort(permutation.to_a)
    begins = [np.cumsum(size) - size for size in sizes]
    # As many lists at a time as hold `strip` entries; one by one where a list has more.
    steps = np.cumsum(sizes[0] + sizes[1][rows_b]) // strip
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), count]

    def look(edge: tuple[int, int]) -> tuple[int, int, int]:
        """How many of some lists differ, and how many entries only A's and only B's have."""
        rows = slice(*edge)
        left = _list_keys(pair[0], begins[0][rows], sizes[0][rows], shift)
        right = _list_keys(pair[1], begins[1][rows_b[rows]], sizes[1][rows_b[rows]], shift, passages)
        both = np.concatenate([left, right])
        both.sort(kind="stable")  # quick, because it is of two parts that are in order
        once = np.ones(both.size + 1, np.bool_)
        np.not_equal(both[1:], both[:-1], out=once[1:-1])
        shared = both.size - (int(np.count_nonzero(once)) - 1)
        lists = both[(once[1:] & once[:-1]).nonzero()[0]] >> shift
        differ = int(np.count_nonzero(np.diff(lists))) + 1 if lists.size else 0
        return differ, left.size - shared, right.size - shared

    found = np.array([(0, 0, 0), *in_threads(look, pairwise(edges))]).sum(axis=0)
    return facts | {
        "ivf_lists_n": count,
        "ivf_lists_n_mismatch": int(found[0]),
        "ivf_entries_only_a": int(found[1]),
        "ivf_entries_only_b": int(found[2]),
    }


def places_of(begins: Array, size: Array) -> Array:
    """Where the members of some groups are, one group after the other, by where each begins and how many it has."""
    return np.repeat(begins - (np.cumsum(size) - size), size) + np.arange(int(size.sum()))


def _list_keys(ivf: Tensor, begins: Array, size: Array, shift: int, passages: Array | None = None) -> Array:
    """The entries of some lists, each once and in order: which of the lists above `shift` bits of the entry."""
    kind = np.uint32 if size.size << shift <= 1 << 32 else np.int64  # half the width is twice as fast
    if size.size and (begins[1:] == begins[:-1] + size[:-1]).all():  # one after the other, as they are in the file
        held = ivf.flat[int(begins[0]) : int(begins[-1] + size[-1])]
    else:
        held = ivf.flat[places_of(begins, size)]
    keys = np.repeat((np.arange(size.size) << shift).astype(kind), size)
    keys |= (held if passages is None else passages[held]).astype(kind, copy=False)
    give_back(held)
    if (keys[1:] > keys[:-1]).all():  # colbert-ai's lists are sorted
        return keys
    keys.sort()  # NumPy's `unique` would hash, many times slower
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if keys.size else keys
