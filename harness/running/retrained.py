"""What the models of stored trainings find: each indexes and searches one collection, all in one environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.artifacts.train_job import TRAIN
from harness.errors import InfrastructureError, UsageError
from harness.rankings.measures import Qrels
from harness.rankings.run import Run
from harness.running.checks import to_run
from harness.running.choice import Chooser
from harness.running.experiment import Experiment
from harness.running.finder import Finder
from harness.running.plan import Planned, plan_cells, run_needed
from harness.running.progress import Board
from harness.running.run_files import run_of
from harness.running.selection import Selection
from harness.running.sweep import run_plan
from harness.running.training import TRAINED
from harness.store.cell import Cell
from harness.store.stored import StoredCell


@dataclass(frozen=True)
class Retrained:
    """What trained models find.

    Attributes:
        version: of the environment in which all of them indexed and searched.
        collection: what they searched.
        runs: of each model.
        same: whether the models are equal in every bit.
        qrels: which passages answer the queries; None where nobody said.
        note: which stored trainings were not chosen; empty where there are none.
    """

    version: str
    collection: str
    runs: tuple[Run, ...]
    same: bool
    qrels: Qrels | None
    note: str


def search_with_models(
    items: Sequence[str], group: str | None, options: dict[str, Any], version: str | None
) -> Retrained:
    """Index and search with the models of stored trainings, where that is not done yet.

    Args:
        items: stored trainings, by label or the start of a key.
        group: start of the digest of one of several sets of stored trainings.
        options: of a `Selection`: how the models were trained, and what is searched, where.
        version: whose environment runs all of it, so that nothing but the model differs; that of the first when absent.

    Raises:
        UsageError: an item names no training, or something that is to be searched is not there.
        InfrastructureError: an index or a search ended badly.
    """
    # What they were trained from is not asked for: what is searched for may be something else.
    training = Selection(**options | dict.fromkeys(_SEARCHED), job=TRAIN.name)
    finder = Finder(Chooser(training, group), items)
    found = [one for one in finder.titled([finder(item) for item in items]) if isinstance(one, StoredCell)]
    for one in found:
        if one.cell.job_kind is not TRAIN:
            raise UsageError(f"{one.name} ({one.cell.spec.job}) is no training, so it has no model to search with.")
    own = {name: None for name in options if name not in (*_SEARCHED, *_PLACE)}
    searching = Selection(**options | own, job="search")
    experiments = [to_run(replace(searching, checkpoint=f"{TRAINED}{one.cell.key}")) for one in found]
    first = experiments[0]
    chosen = first.require(version or found[0].cell.version)
    runs = []
    for experiment, one in zip(experiments, found, strict=True):
        source = StoredCell(experiment.store, _searched(experiment, chosen))
        runs.append(replace(run_of(source, experiment.queries, experiment.passages), name=f"{TRAINED}{one.name}"))
    same = len({one.cell.artifacts["trained"].digest for one in found}) == 1
    qrels = None if first.qrels is None else first.qrels.grades
    return Retrained(chosen, first.passages.name, tuple(runs), same, qrels, finder.note)


def _searched(experiment: Experiment, version: str) -> Cell:
    """The search of a version in its own index, both of which run where they are not stored."""

    def run(of: Experiment, planned: list[Planned]) -> list[Cell]:
        with Board([one.spec.label for one in planned]) as board:
            return run_plan(of, planned, board, evict_after=False)

    ready, bad = run_needed(experiment, [version], run)
    cells = run(experiment, plan_cells(experiment, ready, {})) if ready else bad
    if not cells:
        raise InfrastructureError("Stopped before both models had searched; the same command goes on.")
    if cells[0].outcome != "ok":
        one, model = cells[0], experiment.checkpoint.name
        raise InfrastructureError(f"{one.spec.job} {one.label} with {model} ended as {one.outcome}: {one.reason}")
    return cells[0]


_SEARCHED = ("queries", "qrels", "limit_queries", "k")
"""Options that say what is searched for."""
_PLACE = ("matrix_path", "home", "collection", "limit", "scale_to", "device", "threads", "sites", "site_python")
"""Options that say where; the others say how the models were trained."""
