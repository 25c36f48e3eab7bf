# mypy: ignore-errors
"""What a user would write to search with colbert-ai, and nothing of the harness: the reference of `jobs.py`.

    python bare_search.py CELL.json OUT

Runs in an environment under test, on the queries and settings of a search job's request; `index` there is a folder that
colbert-ai made. It compiles no extensions, as the harness does not: the same functions stand in their place. OUT gets
`ranking.json`, the passages of each query; the last line says how much GPU memory was reserved at most.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from colbert import Searcher
from colbert.infra import ColBERTConfig, Run, RunConfig

from harness.worker.kernels import replace_extensions

NAMES = ("ncells", "centroid_score_threshold", "ndocs", "query_maxlen")


def main() -> None:
    """Search."""
    path, out = sys.argv[1:]
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        cell = json.load(file)
    with open(cell["queries"], encoding="utf-8") as file:  # noqa: PTH123
        texts = [json.loads(line)["text"] for line in file]
    gpu = cell["device"] != "cpu"
    replace_extensions()
    config = ColBERTConfig(
        checkpoint=cell["checkpoint"], model_name=cell["checkpoint"], load_index_with_mmap=False,
        **{name: cell["settings"][name] for name in NAMES},
    )  # fmt: skip
    root, name = os.path.split(cell["index"])
    with Run().context(RunConfig(nranks=1, gpus=int(gpu), root=out, avoid_fork_if_possible=True)):
        searcher = Searcher(
            index=name, index_root=root, checkpoint=cell["checkpoint"], collection=[""], config=config, verbose=1
        )
        ranking = searcher.search_all(dict(enumerate(texts)), k=cell["settings"]["k"])
    found = [[pid for pid, _rank, _score in ranking.data[number]] for number in range(len(texts))]
    with open(f"{out}/ranking.json", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(found, file)
    print(json.dumps({"gpu_reserved_bytes": torch.cuda.max_memory_reserved(0) if gpu else 0}))


if __name__ == "__main__":
    main()
