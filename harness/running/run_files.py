"""Rankings that a command line names: run files in TREC's format, and stored searches, which can be written as such."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.artifacts.source import unique_names
from harness.errors import UnreadableTensor, UsageError
from harness.inputs.queries import local_qrels
from harness.rankings import trec
from harness.rankings.run import Run
from harness.store.cell import Cell
from harness.store.stored import StoredCell

if TYPE_CHECKING:
    from harness.inputs.passages import Texts
    from harness.rankings.measures import Qrels
    from harness.running.experiment import Experiment

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._#+-]+")
_INDEX = ("*.codes", "*.residuals", "doclens")


def write_run(experiment: Experiment, cell: Cell, folder: Path) -> Path:
    """Write the answers of a search in TREC's format, in the searcher's order.

    Args:
        experiment: whose queries and passages the cell is of: they have the ids.
        cell: a search that ended well.
        folder: gets `LABEL.trec`; made if it does not exist.

    Raises:
        UsageError: an id has a blank in it, which the format has no place for, or the answers cannot be read.
    """
    run = run_of(StoredCell(experiment.store, cell), experiment.queries, experiment.passages)
    name = _NOT_IN_A_NAME.sub("-", cell.label).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.trec"
    trec.write_run(path, run, f"harness-{name}")
    return path


def run_of(source: StoredCell, queries: Texts, passages: Texts) -> Run:
    """What a stored search answered, with the ids of its queries and passages.

    Raises:
        UsageError: it is no search, or one of other queries or passages, or its answers cannot be read.
    """
    spec = source.cell.spec
    if spec.queries is None:
        raise UsageError(f"{source.name} ({spec.job}) is no search, and has no rankings: `harness search` makes them.")
    for what, options, own, given in (
        ("queries", "--queries and --limit-queries", spec.queries, queries),
        ("passages", "--collection and --limit", spec.collection, passages),
    ):
        if own.digest != given.digest:
            raise UsageError(
                f"{source.name} searched with other {what} ({own.name}) than those that are named here ({given.name}), "
                f"so nothing is known of what its numbers stand for: pass the {options} that it was made with."
            )
    try:
        pids, scores, found = (source.load(name) for name in ("pids", "scores", "found"))
        lengths = found.flat.astype(np.int64)
        of_queries = lengths.shape == pids.shape[:1] == (len(queries),)
        if not of_queries or len(pids.shape) != 2 or pids.shape != scores.shape:
            raise UnreadableTensor("pids, scores and found are not of the same queries.")
        there = np.arange(pids.shape[1]) < lengths[:, None]
        numbers, values = pids.data[there], scores.data[there].astype(np.float64)
        if numbers.size and not (0 <= numbers.min() <= numbers.max() < len(passages) and np.isfinite(values).all()):
            raise UnreadableTensor("a passage is not one of the collection, or a score is not finite.")
    except UnreadableTensor as error:
        raise UsageError(f"The rankings of {source.name} cannot be read: {error}") from error
    return Run.of(source.name, queries.ids, lengths, np.asarray(passages.ids)[numbers], values)


def refuse_moved(a: StoredCell, b: StoredCell) -> None:
    """Refuse two searches whose indexes number other passages: a passage's number is all that a search tells of it.

    Raises:
        UsageError: most passages of B's index that A's has, bit for bit, are at another place there.
    """
    from harness.artifacts.passages import align

    if _digests(a) == _digests(b):
        return
    alignment = align(a, b)
    facts = alignment.facts() if alignment is not None else {}
    matched, moved = facts.get("passages_matched") or 0, facts.get("passages_reordered") or 0
    if 2 * moved > matched:
        raise UsageError(
            f"{a.name} and {b.name} searched indexes whose passages are in another order ({moved:,} of the "
            f"{matched:,} that are the same in both are at another place), so that a number is not the same passage in "
            "both: index the collection in one order."
        )


def _digests(source: StoredCell) -> Mapping[str, str]:
    pattern = source.cell.job_kind.pattern
    return {name: one.digest for name, one in source.cell.artifacts.items() if pattern(name)[0] in _INDEX}


def named_runs(items: Sequence[str], group: str | None, options: dict[str, Any]) -> tuple[list[Run], Qrels | None, str]:
    """A run for each item, the judgements, and a line that says which cells were not chosen.

    The judgements are those of the option `qrels`, or where an item is a stored search the collection's own; of a part
    of the collection, those of its passages. The store is looked for only when an item is no file.

    Args:
        items: run files, or stored searches by label or the start of a key.
        group: start of the digest of one of several sets of stored cells.
        options: of a `Selection`.

    Raises:
        UsageError: an item names nothing or cannot be read, or two searches number other passages.
    """
    stored = [item for item in dict.fromkeys(items) if not Path(item).is_file()]
    names = unique_names(items, [None if item in stored else item for item in items])
    if not stored:
        judged = None if options["qrels"] is None else local_qrels(Path(options["qrels"])).grades
        return [trec.read_run(Path(item), name) for item, name in zip(items, names, strict=True)], judged, ""
    from harness.running.choice import Chooser
    from harness.running.experiment import Experiment
    from harness.running.finder import Finder
    from harness.running.selection import Selection

    selection = Selection(**options, job="search")
    try:
        finder = Finder(Chooser(selection, group), stored)
        found = [finder(item) for item in stored]
    except UsageError as error:
        raise UsageError(
            f"There is no run file {' and no '.join(stored)} here, and as a stored search: {error}"
        ) from error
    cells = [one for one in finder.titled(found) if isinstance(one, StoredCell)]
    for one in cells[1:]:
        refuse_moved(cells[0], one)
    experiment = Experiment(selection)
    searches = {
        item: run_of(cell, experiment.queries, experiment.passages) for item, cell in zip(stored, cells, strict=True)
    }
    runs = [searches.get(item) or trec.read_run(Path(item), name) for item, name in zip(items, names, strict=True)]
    return runs, None if experiment.qrels is None else experiment.qrels.grades, finder.note
