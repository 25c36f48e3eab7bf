"""The indexing pipeline as a small graph: which artifacts a job makes, in what order, each computed from what."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CHUNK = re.compile(r"(?P<chunk>\d+)\.(?P<what>codes|residuals)|embs_(?P<embs>\d+)")
FINAL = ("centroids", "avg_residual", "bucket_cutoffs", "bucket_weights", "ivf", "ivf_lengths")

# In the order in which the job makes them; `*` stands for a chunk.
_ORDER = (
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


def is_final(name: str) -> bool:
    """Say whether an artifact is one of the tensors of the index itself (12 of them with three chunks)."""
    match = _CHUNK.fullmatch(name)
    return name in FINAL or bool(match and match["what"])


def is_captured(name: str) -> bool:
    """Say whether an artifact is made on the way, and is no tensor of the index itself."""
    return name in VALUES or (_place(name)[0] < len(_ORDER) and not is_final(name))


def is_artifact(name: str) -> bool:
    """Say whether the pipeline makes an artifact of this name."""
    return _place(name)[0] < len(_ORDER)


def _place(name: str) -> tuple[int, int, str]:
    match = _CHUNK.fullmatch(name)
    if match is None:
        return (_ORDER.index(name) if name in _ORDER else len(_ORDER), 0, name)
    if match["embs"]:
        return (_ORDER.index("embs_*"), int(match["embs"]), name)
    return (_ORDER.index(f"*.{match['what']}"), int(match["chunk"]), name)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort artifact names by their place in the pipeline; names that it does not have come last."""
    return sorted(set(names), key=_place)
