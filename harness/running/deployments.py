"""The searches that `harness plan` names for the versions of a table: each version in each version's index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.artifacts.index_job import INDEX
from harness.errors import HarnessError, UsageError
from harness.rankings.measures import Qrels
from harness.rankings.run import Run
from harness.running.experiment import Experiment
from harness.running.run_files import refuse_moved, run_of
from harness.store.cell import Cell, Listed
from harness.store.stored import StoredCell
from harness.words import count


def neighbours(versions: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Each version with those that search its index, itself and its neighbours: all deployments of each pair."""
    return [(version, versions[max(0, place - 1) : place + 2]) for place, version in enumerate(versions)]


class Searches:
    """Stored searches with the same queries and settings.

    Args:
        experiment: of the searches; see `Experiment.search`.
        folders: names whose index is a folder that somebody made, and not that of their own cell.
    """

    def __init__(self, experiment: Experiment, folders: Mapping[str, Path] | None = None) -> None:
        self.experiment, self.folders = experiment, folders or {}
        _ = experiment.queries  # loaded before the copies are made
        self._on: dict[str, Experiment] = {}

    def cell(self, searcher: str, index: str) -> Cell | None:
        """The search of `searcher` in the index of `index`; None where it is not stored.

        Versions whose indexes are the same bit for bit share it.
        """
        if index not in self._on:
            folder = self.folders.get(index)
            self._on[index] = self.experiment.search(on=None if folder else index, index=folder)
        try:
            return self._on[index].stored(searcher)
        except UsageError:  # there is no such index
            return None

    def repeats(self, cell: Cell) -> list[Cell]:
        """The same search again, where it ended well."""
        return [one for one in self.experiment.store.repeats(cell) if one.outcome == "ok"]

    def run(self, cell: Cell) -> Run:
        """What a search answered.

        Raises:
            UsageError: it cannot be read.
        """
        return run_of(StoredCell(self.experiment.store, cell), self.experiment.queries, self.experiment.passages)

    def check(self, a: Cell, b: Cell) -> None:
        """See `refuse_moved`."""
        refuse_moved(*(StoredCell(self.experiment.store, one) for one in (a, b)))

    @property
    def qrels(self) -> Qrels | None:
        """Which passages answer the queries."""
        return None if self.experiment.qrels is None else self.experiment.qrels.grades


def searches_of(
    stored: Iterable[Listed], cells: Sequence[Cell], experiment: Callable[[], Experiment]
) -> tuple[Searches | None, str]:
    """The searches in the indexes of these cells, and a line that says why they are not shown; empty for none.

    Args:
        stored: all that is stored where these are.
        cells: of one set; only indexes are searched.
        experiment: makes the experiment that these are of; asked only where there is a search, because it loads the
            collection and the checkpoint.
    """
    own = cells[0].spec
    if own.job != INDEX.name:
        return None, ""
    like = [
        one
        for one in stored
        if one.spec.queries is not None
        and one.outcome == "ok"
        and (one.spec.collection.digest, one.spec.checkpoint.digest, one.spec.device)
        == (own.collection.digest, own.checkpoint.digest, own.device)
    ]
    if not like:
        return None, ""
    be = "is" if len(like) == 1 else "are"
    told = f"{count(len(like), 'search', 'searches')} in these indexes {be} stored and not shown"
    try:
        found = experiment().search()
        if found.passages.digest != own.collection.digest or found.checkpoint.digest != own.checkpoint.digest:
            return None, f"{told}: name --collection and --checkpoint."
        return Searches(found), ""
    except HarnessError as error:
        return None, f"{told}: {error}"
