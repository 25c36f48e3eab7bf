"""What the searches of each step return, and whether the step wants a new index: rows of two tables, and a column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.artifacts.comparison import ArtifactComparison
from harness.errors import UsageError
from harness.rankings.comparison import Comparison, compare_runs
from harness.rankings.measures import Judge
from harness.rankings.run import Run, together
from harness.rankings.verdict import DEPLOYMENTS, Evidence, Verdict, judge
from harness.report.columns import OF_WHAT
from harness.report.headline import VersionPair
from harness.report.parquet import schema_of, write_batches, write_table
from harness.running.deployments import Searches
from harness.store.cell import Cell

_SHARES = ("identical", "tie_only", "top1_same", "rbo", "tau_b")


@dataclass(frozen=True)
class Retrieval:
    """What was found of the searches of a table's steps.

    Attributes:
        verdicts: step to its answer; only steps of which anything was searched.
        found: step to its deployments, each against A's version in A's index.
        keys: step to the deployments' cells.
        runs: cell to its rankings.
        cells: by key, repeats included.
    """

    verdicts: Mapping[VersionPair, Verdict] = field(default_factory=dict)
    found: Mapping[VersionPair, Mapping[str, Comparison]] = field(default_factory=dict)
    keys: Mapping[VersionPair, Mapping[str, str]] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    cells: Mapping[str, Cell] = field(default_factory=dict)


def retrieve(searches: Searches, same: Mapping[VersionPair, bool | None]) -> Retrieval:
    """Compare the deployments of each step.

    Args:
        searches: finds them.
        same: step to whether its sides made the same index, bit for bit; None where nobody knows.

    Raises:
        UsageError: a search cannot be read.
    """
    settings = searches.experiment.matrix.rankings.settings
    steps: dict[VersionPair, dict[str, Cell]] = {}
    for a, b in same:
        sides = {"a": a, "b": b}
        cells = {name: searches.cell(sides[by], sides[of]) for name, (by, of) in DEPLOYMENTS.items()}
        there = {name: cell for name, cell in cells.items() if cell is not None}
        if there:
            steps[a, b] = there
    cells_of = {cell.key: cell for there in steps.values() for cell in there.values()}
    again = {key: searches.repeats(cell) for key, cell in cells_of.items()}
    everything = {**cells_of, **{one.key: one for many in again.values() for one in many}}
    if not everything:
        return Retrieval()
    runs = dict(zip(everything, together([searches.run(cell) for cell in everything.values()]), strict=True))
    judged = Judge(searches.qrels, settings.measures) if searches.qrels else None
    values = {key: judged.values(run) for key, run in runs.items()} if judged else {}
    if not any(np.nansum(one) for measured in values.values() for one in measured.values()):
        judged = None  # nothing that is relevant was found, so they tell no ranking from another

    def compare(a: str, b: str) -> Comparison:
        return compare_runs(runs[a], runs[b], settings, judged, (values[a], values[b]) if judged else None)

    found, verdicts = {}, {}
    for step, there in steps.items():
        base = there.get("a_on_a")
        moved = _moved(searches, there)
        found[step] = {
            name: compare(base.key, cell.key)
            for name, cell in there.items()
            if base is not None and name != "a_on_a" and not moved
        }
        repeats = {name: compare(cell.key, one.key) for name, cell in there.items() for one in again[cell.key]}
        caveats = [moved] if moved else []
        if next(iter(there.values())).spec.checkpoint.name == "embedded":
            caveats.append(
                "Whether the rankings of a trained checkpoint change: the embedded one never learned late interaction."
            )
        verdicts[step] = judge(Evidence(*step, same[step], found[step], repeats, tuple(caveats)))
    keys = {step: {name: cell.key for name, cell in there.items()} for step, there in steps.items()}
    return Retrieval(verdicts, found, keys, {key: runs[key] for key in cells_of}, everything)


def same_index(final: Sequence[ArtifactComparison]) -> bool | None:
    """Whether two indexes are the same bit for bit, by the comparisons of their tensors; None where nobody knows."""
    if not final:
        return None
    if any(not one.bit_equal and not one.unknown for one in final):
        return False
    return None if any(one.unknown for one in final) else True


def _moved(searches: Searches, there: Mapping[str, Cell]) -> str:
    """Why the deployments of a step cannot be compared; empty where they can."""
    first, *others = {cell.spec.index and cell.spec.index.digest: cell for cell in there.values()}.values()
    try:
        for cell in others:
            searches.check(first, cell)
    except UsageError as error:
        return str(error)
    return ""


# ---- tables


def write_retrieval(folder: Path, found: Retrieval, about: Mapping[str, str]) -> None:
    """Write `rankings.parquet` and `retrieval.parquet`, each at once; without searches, remove those of before."""
    if not found.verdicts:
        for name in ("rankings", "retrieval"):
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        return
    write_batches(folder, "rankings", _rankings(found), **about)
    write_table(folder, "retrieval", _rows(found), **about)


def _rankings(found: Retrieval) -> Iterator[pa.Table]:
    """One table for each search: a row a query and rank."""
    schema = schema_of("rankings")
    for key, run in found.runs.items():
        spec, n = found.cells[key].spec, run.passages.size
        own = (found.cells[key].label, key, spec.version, None if spec.index is None else spec.index.name)
        yield pa.Table.from_arrays(
            [
                *(pa.nulls(n, schema.field(column).type) for column in OF_WHAT),
                *(pa.array([text] * n, pa.string()) for text in own),
                pa.array(np.repeat(np.array(run.qids, np.str_), run.lengths).tolist(), pa.string()),
                pa.array(np.arange(n) - np.repeat(run.starts[:-1], run.lengths) + 1),
                pa.array(np.array(run.ids, np.str_)[run.passages].tolist(), pa.string()),
                pa.array(run.scores),
            ],
            schema=schema,
        )


def _rows(found: Retrieval) -> Iterable[dict[str, Any]]:
    for (a, b), deployments in found.found.items():
        keys = found.keys[a, b]
        for name, one in deployments.items():
            own: dict[str, Any] = {"a": a, "b": b, "deployment": name, "key_a": keys["a_on_a"], "key_b": keys[name]}
            own |= {"queries": one.queries}
            shares = [(measure, one.mean(measure)) for measure in _SHARES]
            shares += [(f"overlap@{k}", share) for k, share in one.overlap.items()]
            for measure, value in [*shares, ("max_score_diff", one.max_score_diff)]:
                yield own | {"measure": measure, "value": value}
            for measure, judged in one.measures.items():
                low, high = judged.interval or (None, None)
                yield own | {
                    "measure": measure, "queries": judged.queries, "value_a": judged.a, "value": judged.b,
                    "diff": judged.diff, "ci_low": low, "ci_high": high, "delta": judged.delta,
                    "equivalent": judged.equivalent, "changed": judged.changed,
                }  # fmt: skip
