"""colbert-ai's own kernels for searching on a CPU against the harness's replacements: the timed part of `kernels.py`.

    PYTHON bare_kernels.py PASSAGES EMBEDDINGS QUERY_TOKENS CENTROIDS NDOCS ROUNDS

Runs in an environment under test, over an index of random codes and residuals. What both make is compared first, bit
for bit. Prints one JSON object: kernel to a list, one entry a round, of [wall, CPU] seconds of the replacement and of
colbert-ai's kernel. On a busy machine, wall seconds say how long others held the processor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from colbert.indexing.codecs.residual import ResidualCodec
from colbert.infra import ColBERTConfig
from colbert.modeling.colbert import ColBERT
from colbert.search.index_storage import IndexScorer
from colbert.search.strided_tensor import StridedTensor

from harness.worker import kernels

DIM, NBITS = 96, 2


Spent = tuple[float, float]


def _spent(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Spent:
    started = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main() -> None:
    """Make an index, compare and time."""
    passages, embeddings, query_tokens, centroids, ndocs, rounds = map(int, sys.argv[1:])
    for owner in (ColBERT, StridedTensor, IndexScorer):
        owner.try_load_torch_extensions(use_gpu=False)
    torch.manual_seed(7)
    doclens = torch.randint(1, 2 * embeddings, (passages,))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), doclens.cumsum(0)))
    total = int(offsets[-1])
    codes = torch.randint(centroids, (total,), dtype=torch.int32)
    residuals = torch.randint(256, (total, DIM * NBITS // 8), dtype=torch.uint8)
    weights = torch.randn(2**NBITS).sort().values
    codec = ResidualCodec(
        ColBERTConfig(dim=DIM, nbits=NBITS), torch.randn(centroids, DIM).half(), torch.tensor(0.1), weights[1:], weights
    )
    scores = torch.rand(centroids, query_tokens)
    # colbert-ai's threshold keeps a few centroids in a hundred; a query's candidates are half of the passages here.
    kept = torch.rand(centroids) < 0.05
    pids = torch.randperm(passages)[: passages // 2].sort().values.int()
    final = torch.randperm(passages)[: ndocs // 4].int()
    lengths = doclens[final.long()]
    cells = torch.randint(passages // 50, (2 * query_tokens,)).unique()
    list_lengths = torch.full((passages // 50,), 50 * embeddings // 4)
    lists = torch.randint(passages, (int(list_lengths.sum()),), dtype=torch.int32)
    starts = list_lengths.cumsum(0) - list_lengths
    token_scores = torch.randn(int(lengths.sum()), query_tokens)
    inputs: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
        "segmented_lookup": (
            kernels.segmented_lookup, StridedTensor.segmented_lookup,
            (lists, cells, list_lengths[cells], starts[cells]),
        ),
        "filter_pids": (
            kernels.filter_pids, IndexScorer.filter_pids, (pids, scores, codes, doclens, offsets, kept, ndocs),
        ),
        "decompress_residuals": (
            kernels.decompress_residuals, IndexScorer.decompress_residuals,
            (
                final, doclens, offsets, codec.bucket_weights, codec.reversed_bit_map,
                codec.decompression_lookup_table, residuals, codes, codec.centroids, DIM, NBITS,
            ),
        ),
        "segmented_maxsim": (kernels.segmented_maxsim, ColBERT.segmented_maxsim, (token_scores, lengths)),
    }  # fmt: skip
    seconds: dict[str, list[tuple[Spent, Spent]]] = {name: [] for name in inputs}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, (ours, theirs, arguments) in inputs.items():
                if not number:
                    # Not counted; both touch all that they read.
                    assert torch.equal(ours(*arguments), theirs(*arguments)), name
                else:
                    seconds[name].append((_spent(ours, arguments), _spent(theirs, arguments)))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
