"""Take cells from one store to another, objects first and the record last, so that a cell is never half there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.errors import UnreadableTensor, UsageError
from harness.store.cell import Cell
from harness.store.store import MODEL, Store, says_less


def copy_cells(source: Store, target: Store, cells: Iterable[Cell], tensors: str) -> tuple[int, int]:
    """Copy cells that `target` lacks, or has with fewer tensors; a cell there that says more stays.

    Args:
        source: where the cells are.
        target: where they go.
        cells: cells of `source`.
        tensors: `none`, `final` (the index's own) or `all`.

    Returns:
        How many cells and how many tensors were copied.

    Raises:
        UsageError: a tensor that is to be copied is damaged.
    """
    copied = objects = 0
    for cell in cells:
        wanted = {
            name
            for name, artifact in cell.artifacts.items()
            if artifact.stored and (tensors == "all" or (tensors == "final" and cell.job_kind.is_final(name)))
        }
        there = target.get(cell.key)
        if says_less(cell, there):
            continue
        have = {name for name, artifact in there.artifacts.items() if artifact.stored} if there else set()
        if there and there.outcome == cell.outcome and wanted <= have:
            continue
        with target.writing():
            for name in sorted(wanted):
                objects += _copy_object(source, target, cell, name)
            artifacts = {
                name: replace(artifact, stored=name in wanted or target.object_path(artifact.digest).exists())
                for name, artifact in cell.artifacts.items()
            }
            folder, kept = source.cell_folder(cell.key), replace(cell, artifacts=artifacts)
            target.write(kept, log=folder / "log.txt", index=folder / "index", model=folder / MODEL)
        copied += 1
    return copied, objects


def _copy_object(source: Store, target: Store, cell: Cell, name: str) -> int:
    artifact = cell.artifacts[name]
    if target.object_path(artifact.digest).exists():
        return 0
    try:
        tensor = source.load(artifact)
    except (UnreadableTensor, OSError) as error:
        raise UsageError(f"{cell.label}: {name} cannot be copied: {error}") from error
    if tensor.digest() != artifact.digest:
        raise UsageError(f"{cell.label}: {name} does not have the digest that its cell recorded: the file is damaged.")
    target.put_object(tensor, artifact.digest)
    return 1
