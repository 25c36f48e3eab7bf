"""Single steps of colbert-ai's indexer and, from `search_steps`, its searcher, run alone with colbert-ai's own code.

A step takes tensors by artifact name and returns tensors by artifact name. Where colbert-ai has a method for the step,
that method runs, on a stand-in for the indexer that has only what the method reads.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

from harness.worker import search_steps
from harness.worker.notes import patched
from harness.worker.outcomes import Ended
from harness.worker.setting import Setting

Tensors = dict[str, torch.Tensor]
ENCODE = "encode"
ENCODING = frozenset({ENCODE, "encode queries", "encode each query"})
"""Steps that run the model."""


def _encode(setting: Setting, inputs: Tensors) -> Tensors:
    # colbert-ai moves the token ids to the model's device itself, and runs under its own autocast.
    embeddings, mask = setting.model().doc(inputs["input_ids"], inputs["attention_mask"], keep_dims="return_mask")
    found = {"batches": embeddings, "mask": mask}
    if not setting.gpu:
        # On a CPU the indexer rounds what it has encoded; with autocast the model gives halves already.
        found["halved"] = embeddings.half()
    return found


def _kmeans(setting: Setting, inputs: Tensors) -> Tensors:
    from colbert.indexing import collection_indexer

    settings = setting.cell["settings"]
    sizes = (settings[name] for name in ("dim", "partitions", "kmeans_niters"))
    return {"centroids_raw": collection_indexer.compute_faiss_kmeans(*sizes, [[inputs["sample"]]])}


def _normalize_centroids(setting: Setting, inputs: Tensors) -> Tensors:
    from colbert.indexing import collection_indexer

    stub = setting.indexer(num_partitions=inputs["centroids_raw"].shape[0])
    # On a GPU the method goes on to round to half, which is the next step; normalising itself is on the CPU always.
    stub.use_gpu = False
    with patched(collection_indexer, "compute_faiss_kmeans", lambda *_args, **_options: inputs["centroids_raw"]):
        return {"centroids_normalized": collection_indexer.CollectionIndexer._train_kmeans(stub, None, None)}


def _buckets(setting: Setting, inputs: Tensors) -> Tensors:
    from colbert.indexing.codecs.residual import ResidualCodec
    from colbert.indexing.collection_indexer import CollectionIndexer

    centroids = inputs["centroids_normalized"]
    cutoffs, weights, average = CollectionIndexer._compute_avg_residual(
        setting.indexer(), centroids, inputs["sample_heldout"]
    )
    codec = ResidualCodec(setting.config(), centroids, average, cutoffs, weights)
    return {name: getattr(codec, name) for name in ("bucket_cutoffs", "bucket_weights", "avg_residual")}


def _compress(setting: Setting, inputs: Tensors) -> Tensors:
    from colbert.indexing.codecs.residual import ResidualCodec

    parts = (inputs[name] for name in ("centroids", "avg_residual", "bucket_cutoffs", "bucket_weights"))
    compressed = ResidualCodec(setting.config(), *parts).compress(inputs["embs"])
    return {"chunk.codes": compressed.codes, "chunk.residuals": compressed.residuals}


def _sort_codes(_setting: Setting, inputs: Tensors) -> Tensors:
    ordered = inputs["codes"].sort()
    return {"values": ordered.values, "ivf_unoptimized": ordered.indices}


def _optimize_ivf(setting: Setting, inputs: Tensors) -> Tensors:
    from colbert.indexing.utils import optimize_ivf

    lengths = torch.bincount(inputs["values"], minlength=setting.cell["settings"]["partitions"])
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "doclens.0.json"), "w", encoding="utf-8") as file:
            json.dump(inputs["doclens"].tolist(), file)
        ivf, ivf_lengths = optimize_ivf(inputs["ivf_unoptimized"], lengths, folder, verbose=0)
    return {"ivf": ivf, "ivf_lengths": ivf_lengths}


def tensorize(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Make the batches of one outer batch of texts, with colbert-ai's own tokenizer.

    Args:
        cell: `texts` (a JSON list of passages, in order), `checkpoint`, `settings`, `device`.
        out_dir: gets `input_ids`, `attention_mask` (both sorted by length, as the batches are cut from them) and
            `reverse_indices`, each `NAME.safetensors`.
        phases: times and names the phases.

    Returns:
        `batches`: how many there are.
    """
    setting = Setting.imported(cell, phases)
    with phases("load"):
        tokenizer = setting.model().doc_tokenizer
    with open(cell["texts"], encoding="utf-8") as file:
        texts = json.load(file)
    with phases("tensorize"):
        batches, reverse_indices = tokenizer.tensorize(texts, bsize=cell["settings"]["index_bsize"])
    made = {
        "input_ids": torch.cat([ids for ids, _mask in batches]),
        "attention_mask": torch.cat([mask for _ids, mask in batches]),
        "reverse_indices": reverse_indices,
    }
    for name, tensor in made.items():
        save_file({"tensor": tensor.to("cpu").contiguous()}, os.path.join(out_dir, f"{name}.safetensors"))
    return {"batches": len(batches)}


STEPS: dict[str, Callable[[Setting, Tensors], Tensors]] = {
    ENCODE: _encode,
    "halve sample": lambda _setting, inputs: {"halved": inputs["local_sample_embs"].half()},
    "k-means": _kmeans,
    "normalize centroids": _normalize_centroids,
    "halve centroids": lambda _setting, inputs: {"centroids": inputs["centroids_normalized"].half()},
    "buckets": _buckets,
    "compress": _compress,
    "sort codes": _sort_codes,
    "optimize ivf": _optimize_ivf,
    **search_steps.STEPS,
}


def run(name: str, setting: Setting, inputs: Tensors) -> Tensors:
    """Run one step without gradients.

    The index job runs in inference mode, which torch before 2.1 cannot combine with a dispatch mode ("Cannot set
    version_counter"); kernels do not depend on it, and that the step gives the job's bits is checked in every run.

    Raises:
        Ended: `unsupported` for a step that cannot be run by itself.
    """
    if name not in STEPS:
        raise Ended("unsupported", f"The step {name!r} cannot be run by itself; those that can: {', '.join(STEPS)}.")
    with torch.no_grad():
        return STEPS[name](setting, inputs)
