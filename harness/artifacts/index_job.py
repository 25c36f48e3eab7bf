"""The index job: its artifacts in order, what they are computed from and mean, what can be swapped or run alone."""

from __future__ import annotations

import operator
from collections import Counter
from typing import TYPE_CHECKING

from harness.artifacts.kind import Batches, Blocks, JobKind, Made, Meaning, Replay

if TYPE_CHECKING:
    from harness.artifacts.source import ArtifactSource

_TOKENS = {"input_ids": "tensorize_output.input_ids", "attention_mask": "tensorize_output.attention_mask"}
_ORDER = "tensorize_output.reverse_indices"
_BUCKETS = ("centroids_normalized", "sample_heldout")
_COMPRESSED = ("embs_*", "centroids")


def _meaning(a: ArtifactSource, b: ArtifactSource) -> Meaning:
    # Only a comparison needs it, and the order of artifacts is needed by commands that must start fast.
    from harness.artifacts.index_meaning import IndexMeaning

    return IndexMeaning(INDEX, a, b)


INDEX = JobKind(
    "index",
    (
        Made("sample_pids", "sample passages", role="value"),
        Made("num_passages", "sample passages", ("sample_pids",), role="value"),
        *(Made(name, "tokenize", ("sample_pids",)) for name in (*_TOKENS.values(), _ORDER)),
        Made("batches", "encode", (*_TOKENS.values(),)),
        Made("D", "flatten", ("batches", _TOKENS["input_ids"], _ORDER), swappable=True),
        # D is the first part of it; the other outer batches come from the same step.
        Made("local_sample_embs", "encode", ("sample_pids", "D"), swappable=True),
        Made("sample", "split sample", ("local_sample_embs",), swappable=True),
        Made("sample_heldout", "split sample", ("local_sample_embs",), swappable=True),
        Made("centroids_raw", "k-means", ("sample",), swappable=True),
        Made("centroids_normalized", "normalize centroids", ("centroids_raw",), swappable=True),
        Made("centroids", "halve centroids", ("centroids_normalized",), role="final"),
        *(Made(n, "buckets", _BUCKETS, role="final") for n in ("bucket_cutoffs", "bucket_weights", "avg_residual")),
        # Every passage is tokenized and encoded again for the index, of which only the embeddings and their numbers are
        # kept: the tokens of the sample's first outer batch stand for theirs. On a CPU they are rounded when kept.
        Made("embs_*", "encode", (*_TOKENS.values(), _ORDER), swappable=True, by_passage=True, rounded=True),
        Made("*.codes", "compress", _COMPRESSED, role="final", by_passage=True),
        Made(
            "*.residuals",
            "compress",
            (*_COMPRESSED, "*.codes", "bucket_cutoffs"),
            role="final",
            by_passage=True,
            packed=True,
        ),
        Made("doclens", "mask", (*_TOKENS.values(),), role="value", by_passage=True),
        Made("codes", "gather codes", ("*.codes",), swappable=True, by_passage=True),
        Made("values", "sort codes", ("codes",), by_passage=True),
        Made("ivf_unoptimized", "sort codes", ("codes",), swappable=True, by_passage=True),
        *(
            Made(name, "optimize ivf", ("ivf_unoptimized", "values", "doclens"), role="final", by_passage=True)
            for name in ("ivf", "ivf_lengths")
        ),
        Made("metadata", "metadata", role="value"),
    ),
    _meaning,
    # What FastPlaid adds: all chunks in one file, and the distance beyond which an embedding is far from its centroid.
    added=(
        Made("merged_codes", "merge chunks", ("*.codes",), by_passage=True),
        Made("merged_residuals", "merge chunks", ("*.residuals",), by_passage=True),
        Made("cluster_threshold", "buckets", _BUCKETS),
    ),
    replays={
        "encode": Replay(
            _TOKENS,
            # `CollectionEncoder.encode_passages` tokenizes and sorts 50 batches at once.
            batches=Batches(
                "batches", "index_bsize", 50, "doclens", {"local_sample_embs": "sample_pids", "embs_*": None}
            ),
        ),
        # Splitting shuffles with the indexer's own random state; what can be run alone is the rounding before it.
        "split sample": Replay(
            {"local_sample_embs": "local_sample_embs"},
            run_as="halve sample",
            outputs={},
            besides="What is left is the shuffle, which cannot be run alone: it drew other random numbers, from the "
            "same state or because something before it, such as loading the model, had drawn more or fewer.",
        ),
        "k-means": Replay({"sample": "sample"}),
        "normalize centroids": Replay({"centroids_raw": "centroids_raw"}),
        "halve centroids": Replay({"centroids_normalized": "centroids_normalized"}),
        "buckets": Replay({name: name for name in _BUCKETS}),
        "compress": Replay(
            {"embs": "embs_*"} | {n: n for n in ("centroids", "avg_residual", "bucket_cutoffs", "bucket_weights")},
            outputs={"*.codes": "chunk.codes", "*.residuals": "chunk.residuals"},
            # colbert-ai cuts its rows into blocks, and each block so that scores against all centroids fit in memory.
            blocks=Blocks(("embs",), 1 << 18, 1 << 29, "partitions"),
        ),
        "sort codes": Replay({"codes": "codes"}),
        "optimize ivf": Replay({name: name for name in ("ivf_unoptimized", "values", "doclens")}),
    },
    sizes={"partitions": ("centroids_raw", "ivf_lengths", "centroids")},
    folder="index",
    united={
        **dict.fromkeys(("buckets_n", "buckets_n_mismatch", "codes_n_mismatch_unpermuted"), operator.add),
        **dict.fromkeys(("codes_n_moved", "codes_judged", "codes_near_ties", "codes_real_moves"), operator.add),
        "buckets_steps": lambda one, other: dict(Counter(one) + Counter(other)),
        **dict.fromkeys(("buckets_max_step", "codes_margin_max"), max),
        **dict.fromkeys(("buckets_mean_step", "codes_margin_p50")),
    },
)
