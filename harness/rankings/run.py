"""What a searcher answered: for each query a list of passages, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from harness.tensors.dtypes import Array


@dataclass(frozen=True, eq=False)
class Run:
    """Ranked lists, one for each query; the order is the searcher's own, whatever ties its scores have.

    Attributes:
        name: what tables call it.
        qids: the queries, each once.
        starts: int64, one longer than the queries: where each list starts, and at last where all end.
        passages: int64, of all lists one after the other, best first: places in `ids`; no passage twice in a list.
        scores: float64, of the same; finite.
        ids: names of passages, each once.
    """

    name: str
    qids: tuple[str, ...]
    starts: Array
    passages: Array
    scores: Array
    ids: tuple[str, ...]

    @classmethod
    def of(cls, name: str, qids: Sequence[str], lengths: Array, names: Sequence[str] | Array, scores: Array) -> Run:
        """A run from names, or whole numbers, of passages.

        Args:
            name: what tables call it.
            qids: the queries.
            lengths: of each query's list.
            names: of all lists one after the other.
            scores: of the same.
        """
        ids, passages = np.unique(np.asarray(names), return_inverse=True)
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(name, tuple(qids), starts, passages, np.asarray(scores, np.float64), tuple(map(str, ids.tolist())))

    @property
    def lengths(self) -> Array:
        """How long each list is."""
        found: Array = np.diff(self.starts)
        return found

    @cached_property
    def ties(self) -> tuple[Array, Array]:
        """Of each entry the first place in its list of its group of equal scores, and the place behind the group's end.

        Only neighbours make a group: the order says what is better, and the scores no more than what is equal.
        """
        n = self.passages.size
        new = np.ones(n + 1, np.bool_)  # whether a group starts here; one ends behind the last
        new[1:n] = self.scores[1:] != self.scores[:-1]
        new[self.starts] = True
        edges = np.flatnonzero(new)
        group = np.cumsum(new[:n]) - 1
        offset = np.repeat(self.starts[:-1], self.lengths)
        return edges[group] - offset, edges[group + 1] - offset

    @property
    def tied(self) -> float | None:
        """Share of neighbours in a list whose scores are equal; None where no list has two passages."""
        neighbours = int(np.maximum(self.lengths - 1, 0).sum())
        groups = int(np.count_nonzero(self.ties[0] == self._places))
        lists = int(np.count_nonzero(self.lengths))
        return (self.passages.size - groups) / neighbours if neighbours == self.passages.size - lists > 0 else None

    @cached_property
    def _places(self) -> Array:
        """Of each entry its place in its list, from 0."""
        places: Array = np.arange(self.passages.size) - np.repeat(self.starts[:-1], self.lengths)
        return places

    @property
    def rising(self) -> int:
        """How many lists have a passage with a greater score than the one before it."""
        up = np.zeros(self.passages.size + 1, np.int64)
        if self.passages.size:
            up[1:-1] = (self.scores[1:] > self.scores[:-1]) & (self._places[1:] > 0)
        sums = np.cumsum(up)
        ends = self.starts[1:] - 1
        return int(np.count_nonzero((sums[ends] - sums[self.starts[:-1]])[self.lengths > 0]))

    def listed(self, query: int) -> tuple[list[str], list[float]]:
        """The names and scores of one query's list, best first."""
        part = slice(self.starts[query], self.starts[query + 1])
        return [self.ids[number] for number in self.passages[part].tolist()], self.scores[part].tolist()

    def only(self, qids: Sequence[str]) -> Run:
        """The same for some of its queries, in the given order."""
        if tuple(qids) == self.qids:
            return self
        number = {qid: place for place, qid in enumerate(self.qids)}
        which = np.array([number[qid] for qid in qids], np.int64)
        lengths = self.lengths[which]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(starts[-1]) + np.repeat(self.starts[which] - starts[:-1], lengths)
        return replace(self, qids=tuple(qids), starts=starts, passages=self.passages[rows], scores=self.scores[rows])


def together(runs: Sequence[Run]) -> list[Run]:
    """The same runs over the queries that all have, in the first one's order, with one numbering of passages.

    What compares many of them does this once.
    """
    shared = set(runs[0].qids).intersection(*(run.qids for run in runs[1:]))
    qids = tuple(qid for qid in runs[0].qids if qid in shared)
    numbers: dict[str, int] = {}
    maps = [np.array([numbers.setdefault(one, len(numbers)) for one in run.ids], np.int64) for run in runs]
    ids = tuple(numbers)
    return [
        replace(part, passages=names[part.passages], ids=ids)
        for run, names in zip(runs, maps, strict=True)
        for part in [run.only(qids)]
    ]
