"""From the store to tables, the headline and one plain sentence: what `consecutive`, `sweep` and `quickstart` share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.artifacts.ladder import Step, ladder
from harness.environments.changes import Change
from harness.errors import UsageError
from harness.explain.compared import ComparedCells, pairs_of
from harness.explain.packages import package_changes
from harness.inputs.matrix import Matrix, profiles_of
from harness.rankings.verdict import MUST_REINDEX, Verdict
from harness.report.headline import Headline, VersionPair, headline
from harness.report.parquet import about_cells
from harness.report.retrieval import Retrieval, retrieve, same_index
from harness.report.tables import write_tables
from harness.running.choice import Choice, describe
from harness.running.deployments import searches_of
from harness.running.experiment import Experiment
from harness.store.cell import Cell
from harness.store.repeats import noise_floors, repeats_of
from harness.store.spec import CellSpec


@dataclass(frozen=True)
class Reduced:
    """What a reduction gave.

    Attributes:
        about: one line that says of what collection, checkpoint and device the table is.
        pairs: all comparisons.
        rows: the headline table.
        repeats: headline rows of A against A.
        note: one line that says what is stored besides and was not used; empty where there is nothing.
        across: steps over versions that could not be compared, whose sides differ beyond noise.
        verdicts: step to its answer to "must I re-index?", where there are searches.
        axis: the package that is varied; None for torch.
        packages: step to the packages that differ, where a side is an environment of the user's own.
    """

    about: str
    pairs: list[ComparedCells]
    rows: list[Headline]
    repeats: list[Headline]
    note: str = ""
    across: tuple[Step, ...] = ()
    verdicts: Mapping[VersionPair, Verdict] = field(default_factory=dict)
    axis: str | None = None
    packages: Mapping[VersionPair, tuple[Change, ...]] = field(default_factory=dict)

    @property
    def compared(self) -> bool:
        """Whether any step was compared at all."""
        return any(not row.gap for row in self.rows)

    @property
    def diverged(self) -> bool:
        """Whether any pair differs beyond what A against A shows, or the two sides of what could not be compared."""
        beyond = (row.changed and len(row.noisy or ()) < row.total - row.bit_equal for row in self.rows)
        return bool(self.across) or any(beyond)


def reduce_cells(
    matrix: Matrix,
    choice: Choice,
    versions: Sequence[str],
    output: Path,
    experiment: Callable[[], Experiment] | None = None,
) -> Reduced:
    """Compare the chosen cells over `versions`, and write the tables below `output`.

    Args:
        matrix: whose versions and settings count.
        choice: the cells.
        versions: what the tables are about.
        output: their folder.
        experiment: makes the experiment that the cells are of, where the searches in their indexes are wanted, too.

    Raises:
        UsageError: none of the cells is of these versions.
    """
    cells = [cell for cell in choice.cells if cell.version in versions]
    if not cells:
        raise UsageError(
            f"No cell of {', '.join(versions)} is stored for {describe(choice.cells)}: `harness plan` shows what is."
            + (f" {choice.note}" if choice.note else "")
        )
    pairs = pairs_of(choice.store, cells, versions, profiles_of(matrix))
    axis = matrix.common_axis(versions)
    beside = {"axis": axis, "torch": matrix.axes[axis].torch} if axis else {}
    about = about_cells(cells[0].spec) | {"group": cells[0].group, **beside}
    searches, unshown = searches_of(choice.listed, cells, experiment) if experiment is not None else (None, "")
    steps = [pair for pair in pairs if pair.kind == "consecutive"]
    same = {(one.a.version, one.b.version): same_index(one.final() if one.complete else ()) for one in steps}
    retrieval = retrieve(searches, same) if searches is not None else Retrieval()
    write_tables(output, cells, pairs, choice.locks, about, retrieval)
    rows = [(pair.kind, _with_verdict(headline(pair), pair, retrieval)) for pair in pairs]
    return Reduced(
        "; ".join([describe(cells), *([f"{axis} beside torch {beside['torch']}"] if axis else [])]),
        pairs,
        [row for kind, row in rows if kind == "consecutive"],
        [row for kind, row in rows if kind == "repeat"],
        "\n".join(filter(None, (choice.note, unshown))),
        _across(cells, versions),
        retrieval.verdicts,
        axis,
        {
            (pair.a.version, pair.b.version): package_changes(pair.a, pair.b)
            for pair in steps
            if pair.complete and (pair.a.spec.own or pair.b.spec.own)
        },
    )


def _with_verdict(row: Headline, pair: ComparedCells, retrieval: Retrieval) -> Headline:
    found = retrieval.verdicts.get((pair.a.version, pair.b.version)) if pair.kind == "consecutive" else None
    return row if found is None else replace(row, must_reindex=MUST_REINDEX[found.answer])


def _across(cells: Sequence[Cell], versions: Sequence[str]) -> tuple[Step, ...]:
    """Steps from one version with an index to the next such, over others between them, that changed the index.

    By digest: a version that did not end well must not hide that the one after it is not the one before it.
    """
    good = {cell.version: cell for cell in cells if cell.outcome == "ok" and not cell.repeat}
    shown = [version for version in versions if version in good]
    found = ladder(
        [
            (v, {name: one.digest for name, one in good[v].artifacts.items() if good[v].job_kind.is_final(name)})
            for v in shown
        ],
        noise=noise_floors(good, lambda cell: repeats_of(cell, cells)),
        kind=cells[0].job_kind,
    )
    neighbours = set(itertools.pairwise(versions))
    steps = (replace(step, changed=found.beyond_noise(step)) for step in found.steps)
    return tuple(step for step in steps if step.changed and (step.a, step.b) not in neighbours)


def results_name(spec: CellSpec, searched: str | None = None, axis: str | None = None) -> str:
    """Name of the tables' folder: device, collection and number of passages; also queries and index, or triples; axis.

    Args:
        spec: of one of the cells.
        searched: the one index that all of them are in; each is in its own when absent.
        axis: the package that is varied; torch when absent.
    """
    from harness.environments.device import Device

    def plain(name: str) -> str:
        return "".join(c if c.isalnum() else "-" for c in Path(name).stem).strip("-")

    parts = [Device(spec.device_kind, spec.device).slug, f"{plain(spec.collection.name)}-{spec.collection.passages}"]
    if spec.queries is not None:
        where = f"-on-{searched}" if searched else ""
        parts.append(f"{plain(spec.queries.name)}-{spec.queries.queries}{where}")
    if spec.triples is not None:
        parts.append(f"{plain(spec.triples.name)}-{spec.triples.triples}")
    return "--".join([*parts, *([axis] if axis else [])])
