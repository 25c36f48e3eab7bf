# mypy: ignore-errors
"""What a user would write to train with colbert-ai, and nothing of the harness.

    python bare_train.py CELL.json OUT

The reference of `training.py` and `jobs.py`. Runs in an environment under test, on the files and settings of a
training job's request. What it does not leave to colbert-ai is what the harness does not either: it compiles no
extension, and it starts no other process for one rank. OUT gets colbert-ai's files; the last line says how long it
took, from reading the passages to the end of the process group, which is what the harness's job counts too, where the
model is, and how much GPU memory was reserved at most.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from colbert.infra import ColBERTConfig, Run, RunConfig
from colbert.infra.launcher import run_process_without_mp
from colbert.modeling.colbert import ColBERT
from colbert.training.training import train

NAMES = (
    "maxsteps", "bsize", "accumsteps", "nway", "lr", "warmup", "use_ib_negatives", "ignore_scores",
    "distillation_alpha", "query_maxlen", "doc_maxlen", "dim", "similarity",
)  # fmt: skip


class Alone(torch.nn.Module):
    """In the place of DistributedDataParallel, which colbert-ai tells that the model is on a GPU."""

    def __init__(self, module: torch.nn.Module, **_options: object) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: object) -> object:
        """What the model gives."""
        return self.module(*args)


def main() -> None:
    """Train."""
    path, out = sys.argv[1:]
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        cell = json.load(file)
    started = time.perf_counter()
    with open(cell["passages"], encoding="utf-8") as file:  # noqa: PTH123
        passages = [json.loads(line) for line in file]
    with open(cell["queries"], encoding="utf-8") as file:  # noqa: PTH123
        queries = {row: json.loads(line)["text"] for row, line in enumerate(file)}
    gpu = cell["device"] != "cpu"
    ColBERT.loaded_extensions = True
    if gpu:
        torch.distributed.init_process_group("nccl", init_method=f"file://{out}/ranks", rank=0, world_size=1)
    else:
        torch.nn.parallel.DistributedDataParallel = Alone
    config = ColBERTConfig(
        checkpoint=cell["checkpoint"], model_name=cell["checkpoint"],
        **{name: cell["settings"][name] for name in NAMES if name in cell["settings"]},
    )  # fmt: skip
    with Run().context(RunConfig(nranks=1, gpus=int(gpu), root=out, experiment="bare")):
        config = ColBERTConfig.from_existing(config, Run().config, RunConfig(rank=0))
        model = run_process_without_mp(train, config, cell["triples"], queries, passages)
        if gpu:
            torch.distributed.destroy_process_group()  # else newer NCCL aborts the process when the driver shuts down
        reserved = torch.cuda.max_memory_reserved(0) if gpu else 0
        print(json.dumps({"seconds": time.perf_counter() - started, "model": model, "gpu_reserved_bytes": reserved}))


if __name__ == "__main__":
    main()
