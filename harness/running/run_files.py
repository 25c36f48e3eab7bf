"""A stored search as a run file in TREC's format, which every tool for rankings reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from harness.errors import UnreadableTensor, UsageError
from harness.running.experiment import Experiment
from harness.store.cell import Cell
from harness.store.stored import StoredCell

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._#+-]+")


def write_run(experiment: Experiment, cell: Cell, folder: Path) -> Path:
    """Write the answers of a search, `QUERY Q0 PASSAGE RANK SCORE TAG` a line, in the searcher's order, ranks from 1.

    Args:
        experiment: whose queries and passages the cell is of: they have the ids.
        cell: a search that ended well.
        folder: gets `LABEL.trec`; made if it does not exist.

    Raises:
        UsageError: an id has a blank in it, which the format has no place for, or the answers cannot be read.
    """
    source = StoredCell(experiment.store, cell)
    passages, queries = experiment.passages.ids, experiment.queries.ids
    for one in (*queries, *passages):
        if not one or any(letter.isspace() for letter in one):
            raise UsageError(f"--trec: the id {one!r} has a blank in it, and a run file separates its columns by them.")
    try:
        pids, scores, found = (source.load(name) for name in ("pids", "scores", "found"))
    except UnreadableTensor as error:
        raise UsageError(f"--trec: {cell.label} cannot be written: {error}") from error
    name = _NOT_IN_A_NAME.sub("-", cell.label).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.trec"
    with path.open("w", encoding="utf-8") as file:
        for query, row, values, many in zip(queries, pids.data, scores.data, found.flat, strict=True):
            # Written as float32 reads them back: a float16 is one of those.
            for rank, (pid, score) in enumerate(zip(row[:many], values[:many].astype(np.float32), strict=True), 1):
                file.write(f"{query} Q0 {passages[pid]} {rank} {score!s} harness-{name}\n")
    return path
