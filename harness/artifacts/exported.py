"""A whole index as the folder that colbert-ai's `Searcher` loads, from whatever holds it."""

from __future__ import annotations

from pathlib import Path

from harness.artifacts.meaning import chunks_in
from harness.artifacts.searchable import DOCLENS, IndexFiles, tensors_of
from harness.artifacts.source import first_missing, listed
from harness.errors import UsageError
from harness.files import copy
from harness.tensors.torchwrite import write_pt

_PAIRS = {"buckets.pt": ("bucket_cutoffs", "bucket_weights"), "ivf.pid.pt": ("ivf", "ivf_lengths")}
"""Files of colbert-ai that hold two tensors; every other tensor has a file of its name."""


def export_index(source: IndexFiles, folder: Path) -> list[str]:
    """Write an index as colbert-ai does; returns the names of its files.

    Args:
        source: of the job `index`.
        folder: made if it does not exist; what is in it of the same name is written over.

    Raises:
        UsageError: the source is no whole index.
        UnreadableTensor: a tensor of it is damaged.
    """
    names = [name for name in tensors_of(source) if name != DOCLENS]
    lacking = first_missing(source) or tuple(
        name for name in ("centroids", "avg_residual", *(one for pair in _PAIRS.values() for one in pair))
        if name not in names
    )  # fmt: skip
    if lacking or not chunks_in(source, "*.codes"):
        raise UsageError(f"{source.name} is no whole index of colbert-ai: it has no {listed(lacking or ('0.codes',))}.")
    paired = {name for pair in _PAIRS.values() for name in pair}
    files = _PAIRS | {f"{name}.pt": (name,) for name in names if name not in paired}
    folder.mkdir(parents=True, exist_ok=True)
    plain = [path for path in sorted(source.folder.iterdir()) if path.suffix == ".json"]
    for file, tensors in files.items():
        write_pt(folder / file, [source.load(name) for name in tensors])
    for path in plain:
        copy(path, folder / path.name)
    return [*files, *(path.name for path in plain)]
