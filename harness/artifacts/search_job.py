"""The search job: its artifacts in order, what they are computed from and mean, what can be swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.artifacts.kind import Blocks, JobKind, Made, Meaning, Replay

if TYPE_CHECKING:
    from harness.artifacts.source import ArtifactSource

INDEX_TENSORS = (
    "centroids", "bucket_cutoffs", "bucket_weights", "avg_residual", "*.codes", "*.residuals", "doclens", "ivf",
    "ivf_lengths",
)  # fmt: skip
"""The index that is searched. Another index is where a difference starts, and no step of the search."""
_TOKENS = ("query_tokens", "query_mask")


def _meaning(a: ArtifactSource, b: ArtifactSource) -> Meaning:
    from harness.artifacts.search_meaning import SearchMeaning

    return SearchMeaning(a, b)


def _ragged(name: str, step: str, *inputs: str) -> tuple[Made, Made]:
    """Rows of all queries one after the other, and how many each query has."""
    return Made(name, step, inputs), Made(f"{name}_lengths", step, inputs)


def _stage(name: str, step: str, of: str) -> tuple[Made, ...]:
    """The passages that a stage of pruning keeps, and by how much the last of them is ahead of the first it drops."""
    inputs = (of, f"{of}_lengths", "centroid_scores", "*.codes", "doclens")
    return *_ragged(name, step, *inputs), Made(f"{name}_margin", step, inputs)


_ANSWERED = ("maxsim", "maxsim_lengths", "stage2")
_ENCODED = {name: name for name in _TOKENS}
_SCORED = {name: name for name in ("Q", "centroids")}
# The searcher has all chunks one after the other.
_EMBEDDED = {"codes": "*.codes", "residuals": "*.residuals"} | {
    name: name for name in ("Q", "stage2", "stage2_lengths", "centroids", "bucket_weights", "doclens")
}
# Queries are searched one by one, and what is recorded of one is 10 MB or more.
_BATCH, _EACH = Blocks(_TOKENS, 128), Blocks(_TOKENS, 1)
_OF_Q, _OF_STAGE2 = Blocks(("Q",), 1), Blocks(("Q", "stage2", "stage2_lengths"), 1)
_COMPRESSED = ("*.codes", "*.residuals", "doclens", "centroids", "bucket_weights")

SEARCH = JobKind(
    "search",
    (
        *(Made(name, "index") for name in INDEX_TENSORS),
        *(Made(name, "tokenize queries") for name in _TOKENS),
        Made("Q", "encode queries", _TOKENS, swappable=True),
        # Each query by itself, as `Searcher.search` encodes it: only Q is searched.
        Made("Q_alone", "encode each query", _TOKENS),
        Made("centroid_scores", "score centroids", ("Q", "centroids"), digests=True),
        *_ragged("cells", "choose cells", "centroid_scores"),
        *_ragged("candidates", "look up cells", "cells", "cells_lengths", "ivf", "ivf_lengths"),
        *_stage("stage1", "prune by best tokens", "candidates"),
        *_stage("stage2", "prune by all tokens", "stage1"),
        Made("decompressed", "decompress", ("stage2", "stage2_lengths", *_COMPRESSED), digests=True),
        Made("normalized", "normalize", ("decompressed",), digests=True),
        *_ragged("maxsim", "score", "Q", "normalized", "stage2_lengths"),
        *(Made(name, "rank", _ANSWERED, role="final") for name in ("pids", "scores", "found")),
    ),
    _meaning,
    replays={
        "encode queries": Replay(_ENCODED, blocks=_BATCH),
        "encode each query": Replay(_ENCODED, blocks=_EACH),
        "score centroids": Replay(_SCORED, blocks=_OF_Q),
        "choose cells": Replay(
            _SCORED, "score centroids", {name: name for name in ("cells", "cells_lengths")}, blocks=_OF_Q
        ),
        "decompress": Replay(_EMBEDDED, "score", {"decompressed": "decompressed"}, blocks=_OF_STAGE2),
        "normalize": Replay(_EMBEDDED, "score", {"normalized": "normalized"}, blocks=_OF_STAGE2),
        "score": Replay(_EMBEDDED, blocks=_OF_STAGE2),
        "rank": Replay({name: name for name in _ANSWERED}),
    },
    product="answer",
)
