"""How two runs differ: the lists themselves, and with judgements what that does to measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from harness.errors import ExitCode, UsageError
from harness.rankings.measures import Judge, Measured, compare_measures
from harness.rankings.run import Run, together
from harness.rankings.settings import Settings
from harness.tensors.dtypes import Array

PERSISTENCE = 0.9
"""RBO's p: the first ten ranks have 86 % of the weight (Webber, Moffat, Zobel 2010, equation 21)."""
_LISTED = 10
_ROUNDING = 1e-9
"""How far from 1 a sum of a thousand weights may be that is 1."""


@dataclass(frozen=True)
class Comparison:
    """Two runs over the queries that both have.

    Attributes:
        a: A's lists.
        b: B's, over the same queries and with the same numbers of passages.
        only_a: queries that only A has.
        only_b: queries that only B has.
        cutoffs: the k of overlap@k.
        each: a record for each query; see `compare_orders`.
        measures: by name, where there are judgements.
        unjudged: of the queries, how many have no relevant passage in the judgements.
    """

    a: Run
    b: Run
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    cutoffs: tuple[int, ...]
    each: Array
    measures: Mapping[str, Measured] = field(default_factory=dict)
    unjudged: int = 0

    @property
    def queries(self) -> int:
        """How many queries were compared."""
        return len(self.a.qids)

    @cached_property
    def changed(self) -> Array:
        """For each query whether the lists differ by more than the order of ties."""
        found: Array = ~(self.each["identical"] | self.each["tie_only"])
        return found

    @property
    def same(self) -> bool:
        """Whether no list differs by more than the order of ties."""
        return not self.changed.any()

    @property
    def equivalent(self) -> bool | None:
        """Whether every measure is equivalent, or no list differs; None where nobody can know."""
        if self.same:
            return True
        answers = {one.equivalent for one in self.measures.values()}
        return False if False in answers else None if None in answers or not answers else True

    @property
    def outcome(self) -> ExitCode:
        """0 where lists or measures are the same as far as anybody minds, else 1; 2 if so for a part of the queries."""
        if not self.equivalent:
            return ExitCode.DIVERGENCE
        return ExitCode.USAGE if self.only_a or self.only_b else ExitCode.OK

    @cached_property
    def tied_on_one_side(self) -> int:
        """How many lists are the same although RBO or tau-b is below 1: scores are equal there on one side only."""
        below = np.zeros(self.queries, np.bool_)
        for name in ("rbo", "tau_b"):
            below |= self.each[name] < 1 - _ROUNDING
        return int((below & ~self.changed).sum())

    @cached_property
    def most_changed(self) -> list[int]:
        """The queries that changed most, at most ten: by the first measure, then by RBO; never one with equal lists."""
        first = next(iter(self.measures.values()), None)
        size = np.nan_to_num(np.abs(first.differences)) if first else np.zeros(self.queries)
        order = np.lexsort((np.arange(self.queries), self.each["rbo"], -size))
        return [int(one) for one in order if not self.each["identical"][one]][:_LISTED]

    def mean(self, name: str) -> float | None:
        """The mean over queries of a number of each; None where it is defined for none."""
        values = self.each[name].astype(np.float64)
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else None

    @property
    def overlap(self) -> dict[int, float]:
        """Mean overlap at each cutoff."""
        return dict(zip(self.cutoffs, self.each["overlap"].mean(axis=0).tolist(), strict=True))

    @property
    def max_score_diff(self) -> float | None:
        """The greatest difference of a passage's scores; None where no list shares one."""
        known = self.each["max_score_diff"][~np.isnan(self.each["max_score_diff"])]
        return float(known.max()) if known.size else None

    def to_json(self) -> dict[str, Any]:
        """The contract's object, and what else the text tells."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "queries": self.queries,
            "identical": self.mean("identical"),
            "top1_same": self.mean("top1_same"),
            "overlap": {str(k): share for k, share in self.overlap.items()},
            "rbo": self.mean("rbo"),
            "tau_b": self.mean("tau_b"),
            "tie_only": self.mean("tie_only"),
            "max_score_diff": self.max_score_diff,
            "measures": {name: one.to_json() for name, one in self.measures.items()},
            "equivalent": self.equivalent,
            "unjudged": self.unjudged if self.measures else None,
            "tied": {"a": self.a.tied, "b": self.b.tied},
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "most_changed": [self._told(query) for query in self.most_changed],
        }

    def shown(self, query: int) -> tuple[int, list[list[tuple[str, float]]]]:
        """The part of a query's lists where they differ: its first rank, and of either side ten passages with scores.

        That is the beginning, or from the last rank before the first difference on, where that comes later.
        """
        lists = [list(zip(*run.listed(query), strict=True)) for run in (self.a, self.b)]
        names = [[name for name, _ in one] for one in lists]
        same = next((rank for rank, pair in enumerate(zip_longest(*names)) if pair[0] != pair[1]), 0)
        start = same - 1 if same >= _LISTED else 0
        return start + 1, [one[start : start + _LISTED] for one in lists]

    def _told(self, query: int) -> dict[str, Any]:
        row = self.each[query]
        rank, sides = self.shown(query)
        return {
            "qid": self.a.qids[query],
            "rank": rank,
            "tie_only": bool(row["tie_only"]),
            "rbo": float(row["rbo"]),
            "measures": {name: _or_none(one.differences[query]) for name, one in self.measures.items()},
            "a": sides[0],
            "b": sides[1],
        }


def _or_none(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def compare_runs(
    a: Run, b: Run, settings: Settings, judge: Judge | None = None, values: Sequence[Mapping[str, Array]] | None = None
) -> Comparison:
    """Compare two runs over the queries that both have.

    Args:
        a: the older side.
        b: the newer.
        settings: cutoffs, and what is held to be equivalent.
        judge: where there are judgements.
        values: of A and of B, `judge.values` over the same queries, where they were computed already; A and B must come
            from one call of `together` then.

    Raises:
        UsageError: no query is in both, or none of these is judged, or nothing that is judged was found.
    """
    only_a, only_b = (
        tuple(qid for qid in one.qids if qid not in known) for one, known in ((a, {*b.qids}), (b, {*a.qids}))
    )
    if len(only_a) == len(a.qids):
        raise UsageError(
            f"No query is in both {a.name} and {b.name}, whose first are {a.qids[0]} and {b.qids[0]}: give two runs of "
            "the same queries."
        )
    if a.ids is not b.ids or a.qids != b.qids:
        a, b = together((a, b))
    each = compare_lists(a, b, settings.overlap)
    if judge is None:
        return Comparison(a, b, only_a, only_b, settings.overlap, each)
    judged = len(judge.judged(a.qids))
    if not judged:
        raise UsageError(
            f"The judgements have a relevant passage for none of the queries of {a.name} and {b.name} (the first is "
            f"{a.qids[0]}): give the judgements of these queries."
        )
    of_a, of_b = values or (judge.values(a), judge.values(b))
    if not any(np.nansum(one) for side in (of_a, of_b) for one in side.values()):
        # Two runs that find nothing have the same measures, which is no equivalence.
        raise UsageError(
            f"No list of {a.name} or {b.name} holds a passage that the judgements call relevant: give the judgements "
            "of this collection, with the run's own names of passages."
        )
    measures = compare_measures(of_a, of_b, settings)
    return Comparison(a, b, only_a, only_b, settings.overlap, each, measures, len(a.qids) - judged)


def compare_lists(a: Run, b: Run, cutoffs: Sequence[int], persistence: float = PERSISTENCE) -> Array:
    """A record for each query of two runs of the same queries and passages (`together`); see `compare_orders`."""
    from harness.tensors.kernels.orders import Lists, compare_orders

    fields = [(name, np.bool_) for name in ("identical", "tie_only", "top1_same")]
    numbers = [(name, np.float64) for name in ("rbo", "tau_b", "max_score_diff")]
    found = np.zeros(len(a.qids), np.dtype([*fields, *numbers, ("overlap", np.float64, (len(cutoffs),))], align=True))
    lists = [Lists(run.starts, run.passages, run.scores, *run.ties) for run in (a, b)]
    compare_orders(*lists, np.array(cutoffs, np.int64), persistence, len(a.ids), found)
    return found
