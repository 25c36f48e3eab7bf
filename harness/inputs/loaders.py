"""The files that a matrix or a command line names: a collection or a checkpoint, found, loaded and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.files import disk_errors
from harness.inputs.matrix import (
    EmbeddedCheckpoint,
    EmbeddedCollection,
    HubCheckpoint,
    HubCollection,
    LocalCheckpoint,
    LocalCollection,
    Matrix,
    ScaledCollection,
)

if TYPE_CHECKING:
    from harness.home import Home
    from harness.inputs.checkpoint import CheckpointFiles
    from harness.inputs.embedded_checkpoint import RunUv
    from harness.inputs.passages import Passages

SCALE_SEED = 0


def load_collection(
    matrix: Matrix, beside: Path, home: Home, name: str | None, *, limit: int | None = None, scale_to: int | None = None
) -> Passages:
    """Load a collection.

    Args:
        matrix: names collections, and the default one.
        beside: the folder of `matrix.yaml`, which relative paths in it start from.
        home: whose cache holds what was downloaded.
        name: a collection in `matrix`, or a path; None for the default one.
        limit: only the first so many passages.
        scale_to: make so many passages out of them by the seeded recipe.

    Raises:
        UsageError: there is no such collection, or it is not what it should be.
    """
    from harness.inputs.recipe import scale_up

    with disk_errors(home):
        loaded = _collection(matrix, beside, home, name or matrix.defaults.collection, limit)
    return loaded if scale_to is None else scale_up(loaded, scale_to, SCALE_SEED)


def _collection(matrix: Matrix, beside: Path, home: Home, name: str, limit: int | None) -> Passages:
    from harness.inputs import collection as kinds
    from harness.inputs import recipe
    from harness.inputs.readers import SUFFIXES

    known = matrix.collections.get(name)
    if known is None:
        if name.endswith(SUFFIXES) or "/" in name or Path(name).exists():
            return kinds.load_local(Path(name), limit=limit)
        raise UsageError(
            f"--collection {name!r}: not a collection in matrix.yaml ({', '.join(matrix.collections)}) and "
            "not a path to a .parquet, .tsv or .jsonl file."
        )
    if isinstance(known, EmbeddedCollection):
        return kinds.load_embedded(min(known.passages, limit or known.passages))
    if isinstance(known, LocalCollection):
        return kinds.load_local(beside / known.path, limit=limit)
    if isinstance(known, ScaledCollection):
        base = known.base if known.base in matrix.collections else str(beside / known.base)
        # The limit is on the scaled passages: a shorter base would scale to other passages.
        scaled = recipe.scale_up(_collection(matrix, beside, home, base, None), known.passages, known.seed)
        return replace(scaled, ids=scaled.ids[:limit], texts=scaled.texts[:limit])
    assert isinstance(known, HubCollection)
    return kinds.load_hub(
        known.repo,
        known.config,
        known.split,
        revision=known.revision,
        expected_rows=known.expected_passages,
        cache=home.data_cache,
        limit=limit,
    )


def load_checkpoint(matrix: Matrix, beside: Path, home: Home, name: str | None, run_uv: RunUv) -> CheckpointFiles:
    """Find and check a checkpoint's files; the arguments are those of `load_collection`, and how uv is run.

    Raises:
        UsageError: there is no such checkpoint, or it is not one.
    """
    from harness.inputs import checkpoint as kinds

    name = name or matrix.defaults.checkpoint
    known = matrix.checkpoints.get(name)
    with disk_errors(home):
        if known is None:
            if "/" in name or Path(name).exists():
                return kinds.load_checkpoint_local(Path(name))
            raise UsageError(
                f"--checkpoint {name!r}: not a checkpoint in matrix.yaml ({', '.join(matrix.checkpoints)}) "
                "and not a folder."
            )
        if isinstance(known, EmbeddedCheckpoint):
            return kinds.load_checkpoint_embedded(home, run_uv)
        if isinstance(known, LocalCheckpoint):
            return kinds.load_checkpoint_local(beside / known.path)
        assert isinstance(known, HubCheckpoint)
        return kinds.load_checkpoint_hub(known.repo, known.revision, cache=home.data_cache)
