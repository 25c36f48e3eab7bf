"""The index job as data: its artifacts in order, what each is computed from, what can be swapped or run alone."""

from __future__ import annotations

from harness.artifacts.kind import Rule

FINAL = ("centroids", "avg_residual", "bucket_cutoffs", "bucket_weights", "ivf", "ivf_lengths")

# In the order in which the job makes them; `*` stands for a chunk.
ORDER = (
    "sample_pids",
    "num_passages",
    "tensorize_output.input_ids",
    "tensorize_output.attention_mask",
    "tensorize_output.reverse_indices",
    "batches",
    "D",
    "local_sample_embs",
    "sample",
    "sample_heldout",
    "centroids_raw",
    "centroids_normalized",
    "centroids",
    "bucket_cutoffs",
    "bucket_weights",
    "avg_residual",
    "embs_*",
    "*.codes",
    "*.residuals",
    "doclens",
    "codes",
    "values",
    "ivf_unoptimized",
    "ivf",
    "ivf_lengths",
    "metadata",
)

VALUES = frozenset(("doclens", "metadata", "num_passages", "sample_pids"))
"""Artifacts that are no tensors in an index: they are shown, but alone they are nothing to compare."""

_TOKENS = (
    "tensorize_output.input_ids",
    "tensorize_output.attention_mask",
    "tensorize_output.reverse_indices",
)

RULES: dict[str, Rule] = {
    "sample_pids": Rule("sample passages"),
    "num_passages": Rule("sample passages", ("sample_pids",)),
    "tensorize_output.input_ids": Rule("tokenize", ("sample_pids",)),
    "tensorize_output.attention_mask": Rule("tokenize", ("sample_pids",)),
    "tensorize_output.reverse_indices": Rule("tokenize", ("sample_pids",)),
    "batches": Rule("encode", _TOKENS[:2]),
    "D": Rule("flatten", ("batches", "tensorize_output.input_ids", "tensorize_output.reverse_indices")),
    # D is the first part of it; the other outer batches come from the same step.
    "local_sample_embs": Rule("encode", ("sample_pids", "D")),
    "sample": Rule("split sample", ("local_sample_embs",)),
    "sample_heldout": Rule("split sample", ("local_sample_embs",)),
    "centroids_raw": Rule("k-means", ("sample",)),
    "centroids_normalized": Rule("normalize centroids", ("centroids_raw",)),
    "centroids": Rule("halve centroids", ("centroids_normalized",)),
    "bucket_cutoffs": Rule("buckets", ("centroids_normalized", "sample_heldout")),
    "bucket_weights": Rule("buckets", ("centroids_normalized", "sample_heldout")),
    "avg_residual": Rule("buckets", ("centroids_normalized", "sample_heldout")),
    # Every passage is tokenized and encoded again for the index, of which only the embeddings and their numbers are
    # kept: the tokens of the sample's first outer batch stand for theirs.
    "embs_*": Rule("encode", _TOKENS),
    "*.codes": Rule("compress", ("embs_*", "centroids")),
    "*.residuals": Rule("compress", ("embs_*", "*.codes", "centroids", "bucket_cutoffs")),
    # What FastPlaid adds: all chunks in one file, and the distance beyond which an embedding is far from its centroid.
    "merged_codes": Rule("merge chunks", ("*.codes",)),
    "merged_residuals": Rule("merge chunks", ("*.residuals",)),
    "cluster_threshold": Rule("buckets", ("centroids_normalized", "sample_heldout")),
    "doclens": Rule("mask", _TOKENS[:2]),
    "codes": Rule("gather codes", ("*.codes",)),
    "values": Rule("sort codes", ("codes",)),
    "ivf_unoptimized": Rule("sort codes", ("codes",)),
    "ivf": Rule("optimize ivf", ("ivf_unoptimized", "values", "doclens")),
    "ivf_lengths": Rule("optimize ivf", ("ivf_unoptimized", "values", "doclens")),
}

STEP_INPUTS: dict[str, dict[str, str]] = {
    "encode": {"input_ids": "tensorize_output.input_ids", "attention_mask": "tensorize_output.attention_mask"},
    "halve sample": {"local_sample_embs": "local_sample_embs"},
    "k-means": {"sample": "sample"},
    "normalize centroids": {"centroids_raw": "centroids_raw"},
    "halve centroids": {"centroids_normalized": "centroids_normalized"},
    "buckets": {"centroids_normalized": "centroids_normalized", "sample_heldout": "sample_heldout"},
    "compress": {
        "embs": "embs_*",
        "centroids": "centroids",
        "avg_residual": "avg_residual",
        "bucket_cutoffs": "bucket_cutoffs",
        "bucket_weights": "bucket_weights",
    },
    "sort codes": {"codes": "codes"},
    "optimize ivf": {"ivf_unoptimized": "ivf_unoptimized", "values": "values", "doclens": "doclens"},
}
"""Steps that can be run by themselves: the step's name for an input, and the artifact that it is."""

RUN_AS = {"split sample": "halve sample"}
"""Splitting shuffles with the indexer's own random state; what can be run by itself is the rounding before it."""

SWAPPABLE = (
    "D", "local_sample_embs", "sample", "sample_heldout", "centroids_raw", "centroids_normalized", "embs_*", "codes",
    "ivf_unoptimized",
)  # fmt: skip
"""Artifacts whose place in colbert-ai's code can be given another value before it is used."""
