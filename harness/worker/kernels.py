"""colbert-ai's C++ and CUDA kernels for searching, with torch operations instead: no compiler is needed to search.

Each gives the bits of the kernel that it replaces for whatever a search can hand it; a test compiles colbert-ai's own
sources and compares. As there, work is shared among torch's threads.
"""

from __future__ import annotations

import torch

_BLOCK = 16
"""Rows that are reduced together before the segments are looked at."""

_UNSEEN = -9999.0
"""What `filter_pids.cpp` gives a passage for a query token that none of its centroids was kept for."""


def _greatest(rows: torch.Tensor) -> torch.Tensor:
    """The maximum along dimension 1 of (n, a power of two, q): halves against each other, which is faster than amax."""
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = torch.maximum(rows[:, :half], rows[:, half:])
    return rows[:, 0]


def _segmented_max(rows: torch.Tensor, lengths: torch.Tensor, floor: float) -> torch.Tensor:
    """The greatest value of each column in each segment of rows, and at least `floor`.

    A segment is its first and its last `_BLOCK` rows, and the whole blocks of `_BLOCK` rows that lie in it: blocks are
    reduced once, wherever the segments' bounds are. Rows that are looked at twice do not change a maximum.

    Args:
        rows: float32 of shape (n, q), segment after segment.
        lengths: int64 of shape (m,), which sum to n at most; 0 gives `floor`.
        floor: what each maximum starts from.

    Returns:
        float32 of shape (m, q). NaN is passed over, as `std::max(so_far, value)` does.
    """
    count, width = len(lengths), rows.shape[1]
    ends = lengths.cumsum(0)
    total = int(ends[-1]) if count else 0
    if not total:
        return rows.new_full((count, width), floor)
    starts = ends - lengths
    step = torch.arange(_BLOCK)
    last = (ends - 1).clamp_min(0)[:, None]
    found = _rows_of(rows, torch.minimum(starts[:, None] + step, last))
    longest = int(lengths.max())
    if longest > _BLOCK:
        found = torch.maximum(found, _rows_of(rows, torch.maximum(last - step, torch.minimum(starts[:, None], last))))
    if longest > 2 * _BLOCK:
        whole = total // _BLOCK
        blocks = rows.new_full((whole + 1, width), floor)
        blocks[:-1] = _greatest(rows[: whole * _BLOCK].view(whole, _BLOCK, width))
        first = (starts + _BLOCK - 1).div(_BLOCK, rounding_mode="floor")[:, None]
        stop = ends.div(_BLOCK, rounding_mode="floor")[:, None]
        most = 1 << (int((stop - first).max()) - 1).bit_length()
        inside = first + torch.arange(most)
        # The block after the last holds the floor, and so changes nothing.
        found = torch.maximum(found, _rows_of(blocks, torch.where(inside < stop, inside, whole)))
    if bool(found.isnan().any()):
        return _segmented_max(rows.masked_fill(rows.isnan(), float("-inf")), lengths, floor)
    found = found.clamp_min(floor)
    return found.masked_fill(lengths[:, None] == 0, floor)


def _rows_of(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    taken = rows.index_select(0, places.reshape(-1))
    return _greatest(taken.view(*places.shape, rows.shape[1]))


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
    # Adding 0 makes -0 the 0 that the kernel starts from.
    return (_segmented_max(scores, lengths, 0.0) + 0.0).sum(1)


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
    bounds = zip(offsets.tolist(), lengths.tolist(), strict=True)
    parts = [tensor[start : start + length] for start, length in bounds]
    return torch.cat(parts) if parts else tensor[:0].clone()


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
    for kept, count in ((idx, nfiltered_docs), (None, nfiltered_docs // 4)):
        segments = pids.long()
        lengths = doclens[segments]
        found = segmented_lookup(codes, pids, lengths, offsets[segments])
        if kept is not None:
            chosen = kept[found.long()]
            lengths = _counts(chosen, lengths)
            found = found[chosen]
        best = _segmented_max(centroid_scores.index_select(0, found), lengths, _UNSEEN)
        pids = keep_best(pids, _in_order(best), count)
    return pids


def _counts(chosen: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """How many of each segment are chosen."""
    before = torch.cat((torch.zeros(1, dtype=torch.int64), chosen.cumsum(0)))
    ends = lengths.cumsum(0)
    return before[ends] - before[ends - lengths]


def _in_order(rows: torch.Tensor) -> torch.Tensor:
    """The sum of each row from left to right in float32, as a loop adds; torch's own sum adds in another order."""
    total = torch.zeros(rows.shape[0])
    for column in rows.t().contiguous():
        total += column
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
    found = segmented_lookup(codes, pids, chosen, starts)
    residuals = segmented_lookup(binary_residuals, pids, chosen, starts)
    return _decompressed(
        residuals, bucket_weights, reversed_bit_map, bucket_weight_combinations, found, centroids, dim, nbits
    )


def decompress_residuals_on_gpu(
    binary_residuals: torch.Tensor,
    bucket_weights: torch.Tensor,
    reversed_bit_map: torch.Tensor,
    bucket_weight_combinations: torch.Tensor,
    codes: torch.Tensor,
    centroids: torch.Tensor,
    dim: int,
    nbits: int,
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
    return _decompressed(
        binary_residuals, bucket_weights, reversed_bit_map, bucket_weight_combinations, codes, centroids, dim, nbits
    )


def _decompressed(
    residuals: torch.Tensor,
    weights: torch.Tensor,
    bit_map: torch.Tensor,
    combinations: torch.Tensor,
    codes: torch.Tensor,
    centroids: torch.Tensor,
    dim: int,
    nbits: int,
) -> torch.Tensor:
    # What a byte of residuals stands for, once for each of the 256.
    table = weights[combinations[bit_map.long()].long()]
    made = centroids.index_select(0, codes)
    made.view(len(codes), dim * nbits // 8, 8 // nbits).add_(table[residuals.long()])
    return made


def replace_extensions() -> None:
    """Put these in the places where colbert-ai looks for what it would compile."""
    from colbert.indexing.codecs.residual import ResidualCodec
    from colbert.modeling.colbert import ColBERT
    from colbert.search.index_storage import IndexScorer
    from colbert.search.strided_tensor import StridedTensor

    from harness.worker.packing import packbits

    for owner, replacements in (
        (ColBERT, {"segmented_maxsim": segmented_maxsim}),
        (StridedTensor, {"segmented_lookup": segmented_lookup}),
        (IndexScorer, {"filter_pids": filter_pids, "decompress_residuals": decompress_residuals}),
        (ResidualCodec, {"packbits": packbits, "decompress_residuals": decompress_residuals_on_gpu}),
    ):
        owner.loaded_extensions = True
        for name, function in replacements.items():
            setattr(owner, name, staticmethod(function))
