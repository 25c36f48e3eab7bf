"""What judgements say of a ranking, and how sure a difference of two is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.rankings.run import Run
from harness.rankings.settings import Settings
from harness.tensors.dtypes import Array

Qrels = dict[str, dict[str, int]]
"""Query to passage to grade; above zero is relevant."""

_SEED = 0
_BATCH = 250  # resamples at a time: what they need stays in the cache


class Judge:
    """Measures runs by judgements, with `ir_measures`.

    Args:
        qrels: judgements. Queries without a relevant passage are left out: every ranking has the same measure there.
        names: measures as `ir_measures` writes them: `nDCG@10`, `R@100` (recall), `RR` (whose mean is MRR).

    Raises:
        UsageError: a measure that `ir_measures` does not know, or cannot compute here.
    """

    def __init__(self, qrels: Qrels, names: Sequence[str]) -> None:
        import ir_measures

        self._names = tuple(names)
        self._qrels = {
            # A negative grade marks spam in some collections, and is no less relevant than nothing.
            qid: {passage: max(grade, 0) for passage, grade in judged.items()}
            for qid, judged in qrels.items()
            if any(grade > 0 for grade in judged.values())
        }
        measures = {}
        for name in names:
            try:
                measure = ir_measures.parse_measure(name)
                if not ir_measures.DefaultPipeline.supports(measure):  # type: ignore[no-untyped-call]
                    raise ValueError("no package that is installed computes it")
                measures[measure] = name
            except (NameError, ValueError, SyntaxError, AssertionError, TypeError, KeyError) as error:
                raise UsageError(
                    f"The measure {name!r} cannot be computed ({error}); `measures` of `rankings` in matrix.yaml takes "
                    "names of ir_measures, such as nDCG@10, R@100 or RR."
                ) from error
        self._measures = measures
        self._evaluator = ir_measures.evaluator(list(measures), self._qrels)

    def judged(self, qids: Sequence[str]) -> tuple[str, ...]:
        """Those of the queries that have a relevant passage."""
        return tuple(qid for qid in qids if qid in self._qrels)

    def values(self, run: Run) -> dict[str, Array]:
        """Each measure's value for each query of a run, NaN where the query has no relevant passage.

        trec_eval sorts by score and breaks ties by name; so it is given scores that fall from rank to rank.
        """
        number = {qid: place for place, qid in enumerate(run.qids) if qid in self._qrels}
        ranked = {}
        for qid, place in number.items():
            names, _ = run.listed(place)
            ranked[qid] = dict(zip(names, map(float, range(len(names), 0, -1)), strict=True))
        found = {name: np.full(len(run.qids), np.nan) for name in self._names}
        for one in self._evaluator.iter_calc(ranked):
            if one.query_id in number:
                found[self._measures[one.measure]][number[one.query_id]] = one.value
        return found


@dataclass(frozen=True)
class Measured:
    """One measure of two runs over the judged queries that both have.

    Attributes:
        a: mean over the queries.
        b: the same of B.
        interval: of the mean of B minus A; see `intervals`. None where there are too few queries to know one.
        delta: how large a difference may be that nobody minds.
        queries: over how many.
        changed: for how many of them the measure differs.
        differences: B minus A for each query of the comparison, NaN where it is not judged.
    """

    a: float
    b: float
    interval: tuple[float, float] | None
    delta: float
    queries: int
    changed: int
    differences: Array

    @property
    def diff(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def equivalent(self) -> bool | None:
        """Whether the whole interval lies within delta, which is more than that no difference was found."""
        return None if self.interval is None else -self.delta <= self.interval[0] and self.interval[1] <= self.delta

    def to_json(self) -> dict[str, Any]:
        """The contract's object."""
        ci = None if self.interval is None else list(self.interval)
        return {
            "a": self.a,
            "b": self.b,
            "diff": self.diff,
            "ci": ci,
            "equivalent": self.equivalent,
            "delta": self.delta,
            "queries": self.queries,
            "changed": self.changed,
        }


def intervals(differences: Array, confidence: float, resamples: int) -> list[tuple[float, float]]:
    """Paired bootstrap intervals of the mean difference: percentiles over resampled queries, with a fixed seed.

    The queries are what is drawn, so an interval says what other queries of the same kind would show. Where no query
    differs there is nothing to draw from but zeros, and it is [0, 0].

    Percentiles and not BCa: nearly all differences are exactly zero here, and BCa's correction is not defined where a
    jackknife sees no spread.

    Args:
        differences: (measures, queries), B minus A; two queries or more.
        confidence: such as 0.95. Its interval within delta is two one-sided tests at half of the rest, 0.025.
        resamples: how many.

    Returns:
        For each measure the two ends.
    """
    from scipy.stats import bootstrap

    n = differences.shape[1]

    def means(drawn: Array, axis: int) -> Array:  # noqa: ARG001 - the last, as bootstrap is told
        # How often each query was drawn, times its differences: for all measures at once, and without a copy of them
        # for each resample.
        rows = drawn.reshape(-1, n) + n * np.arange(drawn.size // n)[:, None]
        times = np.bincount(rows.ravel(), minlength=rows.size).reshape(-1, n).astype(np.float64)
        found: Array = (differences @ times.T / n).reshape(-1, *drawn.shape[:-1])
        return found

    ends = bootstrap(
        (np.arange(n),), means, axis=-1, vectorized=True, method="percentile", confidence_level=confidence,
        n_resamples=resamples, batch=_BATCH, rng=np.random.default_rng(_SEED),
    ).confidence_interval  # fmt: skip
    return list(zip(ends.low.tolist(), ends.high.tolist(), strict=True))


def compare_measures(a: Mapping[str, Array], b: Mapping[str, Array], settings: Settings) -> dict[str, Measured]:
    """Hold the measures of two runs over the same queries against each other.

    Args:
        a: each measure of the settings to its value for each query; see `Judge.values`.
        b: the same of B.
        settings: what is equivalent. With fewer judged queries than it wants, there is no interval.
    """
    differences = np.stack([b[name] - a[name] for name in settings.measures])
    known = ~np.isnan(differences[0])
    n = int(np.count_nonzero(known))
    some = differences[:, known]
    ends: list[tuple[float, float]] | list[None] = [None] * len(some)
    if n >= max(settings.least_queries, 2):
        ends = intervals(some, settings.confidence, settings.resamples)
    return {
        name: Measured(
            a=float(a[name][known].mean()),
            b=float(b[name][known].mean()),
            interval=ends[row],
            delta=settings.delta,
            queries=n,
            changed=int(np.count_nonzero(some[row])),
            differences=differences[row],
        )
        for row, name in enumerate(settings.measures)
    }
