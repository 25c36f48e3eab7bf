"""What a user would write to index with colbert-ai, and nothing of the harness: the reference of `overhead.py`.

    python bare_index.py PASSAGES.jsonl CHECKPOINT OUT cpu|cuda

Runs in an environment under test. The only thing it does not leave to colbert-ai is what the harness does not either:
it keeps colbert-ai from compiling extensions, and packs bits with torch operations.
"""

from __future__ import annotations

import json
import sys

import torch
from colbert import Indexer
from colbert.indexing.codecs.residual import ResidualCodec
from colbert.infra import ColBERTConfig, Run, RunConfig
from colbert.modeling.colbert import ColBERT


def packbits(bits: torch.Tensor) -> torch.Tensor:
    """Eight 0/1 values a byte, the first in the most significant bit."""
    rows = bits.reshape(-1, 8)
    packed = torch.zeros(rows.shape[0], dtype=torch.uint8, device=bits.device)
    for position in range(8):
        packed |= rows[:, position] << (7 - position)
    return packed


def main() -> None:
    """Index and print the GPU memory in use at the end, in bytes."""
    passages_path, checkpoint, out, device = sys.argv[1:]
    ColBERT.loaded_extensions = True
    ResidualCodec.loaded_extensions = True
    ResidualCodec.packbits = staticmethod(packbits)
    with open(passages_path, encoding="utf-8") as file:  # noqa: PTH123
        passages = [json.loads(line) for line in file]
    config = ColBERTConfig(
        nbits=2, dim=96, index_bsize=32, doc_maxlen=300, kmeans_niters=4, index_path=f"{out}/index",
        checkpoint=checkpoint, avoid_fork_if_possible=True,
    )  # fmt: skip
    with Run().context(RunConfig(nranks=1, gpus=int(device == "cuda"), root=out, avoid_fork_if_possible=True)):
        Indexer(checkpoint=checkpoint, config=config).index(name="index", collection=passages)
    if device == "cuda":
        print(json.dumps({"gpu_reserved_bytes": torch.cuda.max_memory_reserved(0)}))


if __name__ == "__main__":
    main()
