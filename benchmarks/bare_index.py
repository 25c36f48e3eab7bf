# mypy: ignore-errors
"""What a user would write to index with colbert-ai, and nothing of the harness: the reference of `jobs.py`.

    python bare_index.py CELL.json OUT

Runs in an environment under test, on the passages and settings of an index job's request. The only thing it does not
leave to colbert-ai is what the harness does not either: it compiles no extensions, in the place of which stand the same
functions. OUT gets colbert-ai's files, below `index`; the last line says how much GPU memory was reserved at most.
"""

from __future__ import annotations

import json
import sys

import torch
from colbert import Indexer
from colbert.infra import ColBERTConfig, Run, RunConfig

from harness.worker.kernels import replace_extensions

NAMES = ("nbits", "dim", "index_bsize", "doc_maxlen", "kmeans_niters")


def main() -> None:
    """Index."""
    path, out = sys.argv[1:]
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        cell = json.load(file)
    with open(cell["passages"], encoding="utf-8") as file:  # noqa: PTH123
        passages = [json.loads(line) for line in file]
    gpu = cell["device"] != "cpu"
    replace_extensions()
    config = ColBERTConfig(
        checkpoint=cell["checkpoint"], model_name=cell["checkpoint"], index_path=f"{out}/index",
        avoid_fork_if_possible=True, **{name: cell["settings"][name] for name in NAMES if name in cell["settings"]},
    )  # fmt: skip
    with Run().context(RunConfig(nranks=1, gpus=int(gpu), root=out, avoid_fork_if_possible=True)):
        Indexer(checkpoint=cell["checkpoint"], config=config).index(name="index", collection=passages)
    print(json.dumps({"gpu_reserved_bytes": torch.cuda.max_memory_reserved(0) if gpu else 0}))


if __name__ == "__main__":
    main()
