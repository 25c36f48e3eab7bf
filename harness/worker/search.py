"""The job `search`: colbert-ai's own searcher, unmodified on disk, over an index and queries in this process."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import torch
from safetensors.torch import load_file

from harness.worker import capture
from harness.worker.index import colbert_config, finished, model_facts, refuse_remote_code, running, skip_extensions
from harness.worker.notes import Notes
from harness.worker.outcomes import Ended
from harness.worker.search_capture import HOOKS, SearchTap

_PARTS = {
    "centroids.pt": ("centroids",),
    "avg_residual.pt": ("avg_residual",),
    "buckets.pt": ("bucket_cutoffs", "bucket_weights"),
    "ivf.pid.pt": ("ivf", "ivf_lengths"),
}
"""File of colbert-ai's index to the tensors in it, by the names of the index job's artifacts."""


def lay_out(source: str, target: str) -> None:
    """Turn an index into one that colbert-ai loads, file by file, so that there are never two of it.

    Args:
        source: a folder with `NAME.safetensors` for each tensor of an index, which are deleted, and its JSON files.
        target: a folder; made if it does not exist.

    Raises:
        Ended: `crashed`, where a file is missing.
    """
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(source, "metadata.json"), encoding="utf-8") as file:
        chunks = range(json.load(file)["num_chunks"])
    parts = _PARTS | {f"{n}.{kind}.pt": (f"{n}.{kind}",) for n in chunks for kind in ("codes", "residuals")}
    plain = ("metadata.json", "plan.json", *(f"doclens.{n}.json" for n in chunks))
    # The error of safetensors' own loader does not say which file it is.
    for name in (*(f"{one}.safetensors" for tensors in parts.values() for one in tensors), *plain):
        if not os.path.exists(os.path.join(source, name)):
            raise Ended("crashed", f"The index has no {name}.")
    for name, tensors in parts.items():
        paths = [os.path.join(source, f"{tensor}.safetensors") for tensor in tensors]
        held = [load_file(path)["tensor"] for path in paths]
        torch.save(held[0] if len(held) == 1 else tuple(held), os.path.join(target, name))
        for path in paths:
            os.remove(path)
    for name in plain:
        shutil.copyfile(os.path.join(source, name), os.path.join(target, name))


def run(cell: dict[str, Any], out_dir: str, phases: Any, notes: Notes) -> dict[str, Any]:
    """Search an index with queries.

    Args:
        cell: the cell's specification (`index`, `queries`, `checkpoint`, `settings`, `device`, `capture`, `swap`).
        out_dir: gets `intermediates/`, and for as long as the job runs a copy of the index in colbert-ai's layout.
        phases: times and names the phases.
        notes: gets the reason of what could not be recorded.

    Returns:
        What ran, as the index job says it, and `queries`, their number.
    """
    settings = cell["settings"]
    with phases("import"):
        from colbert import Searcher

        skip_extensions(cell)
        refuse_remote_code(cell["checkpoint"])
    with open(cell["queries"], encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    gpu = cell["device"] != "cpu"
    tap = SearchTap(
        os.path.join(out_dir, "intermediates"), cell["capture"], cell.get("swap") or {}, notes, HOOKS, gpu=gpu
    )  # fmt: skip
    laid_out = os.path.join(out_dir, "index")
    # All that the searcher would otherwise choose by the first call's k, and keep for later calls.
    chosen = {name: settings[name] for name in ("ncells", "centroid_score_threshold", "ndocs", "query_maxlen")}
    with running(gpu, out_dir):
        with phases("load"):
            lay_out(cell["index"], laid_out)
            searcher = Searcher(
                index="index",
                index_root=out_dir,
                checkpoint=cell["checkpoint"],
                # Passages are not looked at, but colbert-ai wants some.
                collection=[""],
                config=colbert_config(cell, load_index_with_mmap=False, **chosen),
                verbose=1,
            )
            # It is in memory now, and no artifact of this job.
            shutil.rmtree(laid_out)
        seen = notes.gather("observed", model_facts(searcher.checkpoint, searcher.checkpoint.amp_manager, gpu))
        with phases("search"), capture.install(tap):
            # By place and not by id: colbert-ai takes them as a dict.
            ranking = searcher.search_all(dict(enumerate(texts)), k=settings["k"])
        with phases("encode alone"):
            tap.alone(searcher, texts)
    tap.answer([ranking.data[number] for number in range(len(texts))], settings["k"], searcher.ranker)
    return {**finished(tap, seen, gpu), "queries": len(texts)}
