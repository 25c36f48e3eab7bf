"""colbert-ai's C++ and CUDA kernels for searching, in NumPy and torch: no compiler is needed to search.

Each gives the bits of the kernel that it replaces for whatever a search can hand it; a test compiles colbert-ai's own
sources and compares. On the CPU most are NumPy on one thread: a search is many small steps, and threads wait for each
other at the end of every one. `benchmarks/kernels.py` times each, and all of a search together, which takes less than
with colbert-ai's; MaxSim alone takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch

_UNSEEN = -9999.0
"""What `filter_pids.cpp` gives a passage for a query token that none of its centroids was kept for."""

_AT_ONCE = 1 << 17
"""Values that are worked on together: a buffer of this size is used again and again, and stays in a core's cache."""

_BLOCK = 8
"""Rows of which the greatest values are found first."""

_TORCH_ALONE = 1 << 15
"""Values from which on torch shares a sum out among its threads (`at::internal::GRAIN_SIZE`)."""

Array = numpy.ndarray[Any, Any]


def _segmented_max(table: Array, places: Array | None, starts: Array, lengths: Array, floor: float) -> Array:
    """The greatest value of each column in each segment of rows, and at least `floor`.

    Segments of about one length are worked on together: all their first rows, all their second ones, and so on.

    Args:
        table: float32 of shape (n, q).
        places: the rows of `table` that the segments consist of; None for all of them, in order.
        starts: of shape (m,), where in `places` each segment begins.
        lengths: of shape (m,); 0 gives `floor`.
        floor: what each maximum starts from.

    Returns:
        float32 of shape (m, q). NaN is passed over, as `std::max(so_far, value)` does.
    """
    width = table.shape[1]
    found = numpy.full((len(lengths), width), floor, dtype=numpy.float32)
    order = numpy.argsort(-lengths, kind="stable")[: numpy.count_nonzero(lengths)]
    together = max(1, _AT_ONCE // width)
    buffer = numpy.empty((min(together, len(order)), width), dtype=numpy.float32)
    for begin in range(0, len(order), together):
        group = order[begin : begin + together]
        so_far, rows = found[group], starts[group]
        # The longest come first, so that those that have a row of this number are the beginning.
        for left in numpy.searchsorted(-lengths[group], -numpy.arange(lengths[group[0]])).tolist():
            chosen = rows[:left] if places is None else places[rows[:left]]
            # `clip` lets NumPy write where it is told to at once; nothing is out of range.
            numpy.take(table, chosen, axis=0, out=buffer[:left], mode="clip")
            numpy.fmax(so_far[:left], buffer[:left], out=so_far[:left])
            rows += 1
        found[group] = so_far
    return found


def _expect(**wanted: tuple[torch.Tensor, torch.dtype]) -> None:
    """Refuse what colbert-ai's kernels refuse.

    Raises:
        TypeError: a tensor has another dtype.
    """
    for name, (tensor, dtype) in wanted.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name} is {tensor.dtype}, and colbert-ai's kernel takes {dtype} only")


def segmented_maxsim(scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sum over query tokens of the best score in each passage, which is 0 at least: `modeling/segmented_maxsim.cpp`.

    Args:
        scores: float32 of shape (embeddings, query tokens), passage after passage.
        lengths: int64, embeddings of each passage.

    Returns:
        float32 of shape (passages,).
    """
    _expect(scores=(scores, torch.float32), lengths=(lengths, torch.int64))
    best = _best_of_passages(scores, lengths.numpy())
    if best.isnan().any():  # torch's maximum is NaN then; `std::max(so_far, value)` passes it over
        best = _best_of_passages(scores.masked_fill(scores.isnan(), float("-inf")), lengths.numpy())
    best += 0.0  # -0 becomes the 0 that the kernel starts from
    # As there, it is torch that sums: each row by itself, however many there are. So few at a time that it does not
    # wake its threads: to wait for them can cost more than all else here.
    together = max(1, (_TORCH_ALONE - 1) // best.shape[1])
    return torch.cat([part.sum(1) for part in best.split(together)])


def _best_of_passages(scores: torch.Tensor, lengths: Array) -> torch.Tensor:
    """The greatest score of each query token in each passage, and at least 0.

    The greatest of blocks of rows come first, wherever passages begin: that is one pass over memory. A passage then
    consists of the blocks within it, its first rows and its last. Some are in two of these, which changes no maximum.

    Args:
        scores: float32 of shape (n, q), passage after passage.
        lengths: int64 of shape (m,), rows of each passage.

    Returns:
        float32 of shape (m, q).
    """
    best = scores.new_zeros((len(lengths), scores.shape[1]))
    if not lengths.any():
        return best
    ends = lengths.cumsum()
    starts, near = ends - lengths, numpy.arange(_BLOCK)
    from_start = numpy.minimum(starts[:, None] + near, ends[:, None] - 1)
    from_end = numpy.maximum(ends[:, None] - 1 - near, starts[:, None])
    parts = [(scores, numpy.concatenate((from_start, from_end), 1), lengths)]
    first, last = (starts + (_BLOCK - 1)) // _BLOCK, ends // _BLOCK
    if (most := (last - first).max()) > 0:
        blocks = scores[: len(scores) // _BLOCK * _BLOCK].view(-1, _BLOCK, scores.shape[1]).amax(1)
        parts.append((blocks, numpy.minimum(first[:, None] + numpy.arange(most), last[:, None] - 1), last - first))
    for rows, which, count in parts:
        chosen = torch.from_numpy(which.clip(0, len(rows) - 1).reshape(-1))
        found = rows.index_select(0, chosen).view(*which.shape, -1).amax(1)
        torch.maximum(best, found.masked_fill_(torch.from_numpy(count <= 0)[:, None], 0), out=best)
    return best


def segmented_lookup(
    tensor: torch.Tensor, pids: torch.Tensor, lengths: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """The rows of some segments, one after the other: `search/segmented_lookup.cpp`.

    Args:
        tensor: rows of any dtype.
        pids: the segments' numbers, which only say how many there are.
        lengths: int64, rows of each segment.
        offsets: int64, where each begins.

    Returns:
        What `tensor` holds there, of shape (sum of lengths, …).
    """
    del pids
    held = tensor.numpy()
    places = zip(offsets.tolist(), lengths.tolist())  # noqa: B905 - Python 3.9 knows no strict
    parts = [held[start : start + length] for start, length in places]
    return torch.from_numpy(numpy.concatenate(parts)) if parts else tensor[:0].clone()


def keep_best(pids: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """The pids of the highest scores, best first; of equal scores the larger pid, as a heap of pairs has it.

    Args:
        pids: int32, not negative.
        scores: float32, without NaN or -0.
        count: how many at most.

    Returns:
        int32 of shape (count or fewer,).
    """
    bits = scores.view(torch.int32)
    # As signed integers, positive floats are in order and negative ones in reverse.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    pairs = (ordered.long() << 32) | pids.long()
    return (pairs.topk(min(count, len(pairs))).values & 0x7FFFFFFF).int()


def filter_pids(
    pids: torch.Tensor,
    centroid_scores: torch.Tensor,
    codes: torch.Tensor,
    doclens: torch.Tensor,
    offsets: torch.Tensor,
    idx: torch.Tensor,
    nfiltered_docs: int,
) -> torch.Tensor:
    """The candidates with the best approximate scores, in two stages: `search/filter_pids.cpp`.

    The first stage scores passages by those centroids that `idx` keeps, and the second by all of them, and keeps a
    quarter as many.

    Args:
        pids: int32, the candidates.
        centroid_scores: float32 of shape (centroids, query tokens).
        codes: int32, the centroid of each embedding of the index.
        doclens: int64, embeddings of each passage.
        offsets: int64, where each passage begins.
        idx: bool, whether each centroid is kept.
        nfiltered_docs: how many are left after the first stage.

    Returns:
        int32, best first.
    """
    _expect(
        pids=(pids, torch.int32), centroid_scores=(centroid_scores, torch.float32), codes=(codes, torch.int32),
        doclens=(doclens, torch.int64), offsets=(offsets, torch.int64), idx=(idx, torch.bool),
    )  # fmt: skip
    table, of_index = centroid_scores.numpy(), codes.numpy()
    segments = pids.numpy()
    starts, lengths, places = _kept(of_index, offsets.numpy()[segments], doclens.numpy()[segments], idx.numpy())
    for count in (nfiltered_docs, nfiltered_docs // 4):
        best = _segmented_max(table, places, starts, lengths, _UNSEEN)
        pids = keep_best(pids, torch.from_numpy(_in_order(best)), count)
        segments = pids.numpy()
        starts, lengths, places = offsets.numpy()[segments], doclens.numpy()[segments], of_index
    return pids


def _kept(codes: Array, starts: Array, lengths: Array, kept: Array) -> tuple[Array, Array, Array]:
    """Of some segments of codes, those that are kept: where each segment begins now, its length, and the codes."""
    ends = lengths.cumsum()
    total = ends[-1] if len(ends) else 0
    edges = [0, *numpy.searchsorted(ends, numpy.arange(_AT_ONCE, total, _AT_ONCE)).tolist(), len(lengths)]
    counts, found = [], []
    for begin, stop in zip(edges, edges[1:]):  # noqa: B905, RUF007 - Python 3.9 knows neither strict nor pairwise
        bounds = numpy.concatenate(([0], lengths[begin:stop].cumsum()))
        rows = numpy.arange(bounds[-1])
        rows += numpy.repeat(starts[begin:stop] - bounds[:-1], lengths[begin:stop])
        of_part = codes.take(rows)
        chosen = numpy.flatnonzero(kept.take(of_part))
        counts.append(numpy.diff(chosen.searchsorted(bounds)))
        found.append(of_part.take(chosen))
    left = numpy.concatenate(counts)
    return left.cumsum() - left, left, numpy.concatenate(found)


def _in_order(rows: Array) -> Array:
    """The sum of each row from left to right, as a loop adds; NumPy's and torch's own sums add in another order."""
    total = numpy.zeros(len(rows), dtype=numpy.float32)
    for column in numpy.ascontiguousarray(rows.T):
        numpy.add(total, column, out=total)
    return total


def decompress_residuals(
    pids: torch.Tensor,
    lengths: torch.Tensor,
    offsets: torch.Tensor,
    bucket_weights: torch.Tensor,
    reversed_bit_map: torch.Tensor,
    bucket_weight_combinations: torch.Tensor,
    binary_residuals: torch.Tensor,
    codes: torch.Tensor,
    centroids: torch.Tensor,
    dim: int,
    nbits: int,
) -> torch.Tensor:
    """Embeddings of some passages, each its centroid and the weights of its buckets: `search/decompress_residuals.cpp`.

    Args:
        pids: int32, the passages.
        lengths: int64, embeddings of each passage of the index.
        offsets: int64, where each begins.
        bucket_weights: float32 of shape (2 ** nbits,).
        reversed_bit_map: uint8 of shape (256,), a byte with the bits of each bucket in the other order.
        bucket_weight_combinations: uint8 of shape (256, 8 // nbits), the buckets that a byte stands for.
        binary_residuals: uint8 of shape (embeddings, dim * nbits // 8).
        codes: int32, the centroid of each embedding.
        centroids: float32 of shape (centroids, dim).
        dim: values of an embedding.
        nbits: bits of a bucket.

    Returns:
        float32 of shape (embeddings of these passages, dim), not normalised.
    """
    _expect(
        pids=(pids, torch.int32), bucket_weights=(bucket_weights, torch.float32), codes=(codes, torch.int32),
        binary_residuals=(binary_residuals, torch.uint8), centroids=(centroids, torch.float32),
    )  # fmt: skip
    segments = pids.long()
    chosen, starts = lengths[segments], offsets[segments]
    found = segmented_lookup(codes, pids, chosen, starts).numpy()
    residuals = segmented_lookup(binary_residuals, pids, chosen, starts).numpy()
    table = _of_each_byte(bucket_weights, reversed_bit_map, bucket_weight_combinations).numpy()
    made = numpy.empty((len(found), dim), dtype=numpy.float32)
    together = _AT_ONCE // dim
    weights = numpy.empty((together, dim), dtype=numpy.float32)
    for begin in range(0, len(found), together):
        part = slice(begin, begin + together)
        held = weights[: len(found[part])]
        numpy.take(centroids.numpy(), found[part], axis=0, out=made[part], mode="clip")
        numpy.take(table, residuals[part], axis=0, out=held.reshape(*residuals[part].shape, 8 // nbits), mode="clip")
        numpy.add(made[part], held, out=made[part])
    return torch.from_numpy(made)


def decompress_residuals_on_gpu(
    binary_residuals: torch.Tensor,
    bucket_weights: torch.Tensor,
    reversed_bit_map: torch.Tensor,
    bucket_weight_combinations: torch.Tensor,
    codes: torch.Tensor,
    centroids: torch.Tensor,
    dim: int,
    nbits: int,  # noqa: ARG001 - as the kernel is called
) -> torch.Tensor:
    """Embeddings, each its centroid and the weights of its buckets: `indexing/codecs/decompress_residuals.cu`.

    Weights and centroids are float16, and so is their sum: it is rounded before anything is normalised.

    Args:
        binary_residuals: uint8 of shape (embeddings, dim * nbits // 8).
        bucket_weights: float16 of shape (2 ** nbits,).
        reversed_bit_map: as for `decompress_residuals`.
        bucket_weight_combinations: as for `decompress_residuals`.
        codes: int32, the centroid of each embedding.
        centroids: float16 of shape (centroids, dim).
        dim: values of an embedding.
        nbits: bits of a bucket.

    Returns:
        float16 of shape (embeddings, dim).
    """
    _expect(
        bucket_weights=(bucket_weights, torch.float16), codes=(codes, torch.int32),
        binary_residuals=(binary_residuals, torch.uint8), centroids=(centroids, torch.float16),
    )  # fmt: skip
    table = _of_each_byte(bucket_weights, reversed_bit_map, bucket_weight_combinations)
    made = table[binary_residuals.long()].view(-1, dim)
    return made.add_(centroids.index_select(0, codes))


def _of_each_byte(weights: torch.Tensor, bit_map: torch.Tensor, combinations: torch.Tensor) -> torch.Tensor:
    """The weights that each of the 256 bytes of residuals stands for."""
    return weights[combinations[bit_map.long()].long()]


def replace_extensions() -> None:
    """Put these in the places where colbert-ai looks for what it would compile."""
    from colbert.indexing.codecs.residual import ResidualCodec
    from colbert.modeling.colbert import ColBERT
    from colbert.search.index_storage import IndexScorer
    from colbert.search.strided_tensor import StridedTensor

    from harness.worker.packing import packbits

    places: tuple[tuple[Any, dict[str, Callable[..., torch.Tensor]]], ...] = (
        (ColBERT, {"segmented_maxsim": segmented_maxsim}),
        (StridedTensor, {"segmented_lookup": segmented_lookup}),
        (IndexScorer, {"filter_pids": filter_pids, "decompress_residuals": decompress_residuals}),
        (ResidualCodec, {"packbits": packbits, "decompress_residuals": decompress_residuals_on_gpu}),
    )
    for owner, replacements in places:
        owner.loaded_extensions = True
        for name, function in replacements.items():
            setattr(owner, name, staticmethod(function))
