"""What is held to be equivalent: cutoffs, bounds and how intervals are made, as data of `matrix.yaml`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How two runs are compared; `Rankings` in `harness/inputs/matrix.py` is where a user sets it.

    Attributes:
        overlap: the k of overlap@k.
        measures: as `ir_measures` names them.
        delta: a measure is equivalent where the whole interval of its difference lies within it.
        confidence: of the intervals.
        resamples: of the bootstrap.
        least_queries: judged queries without which no interval is given; a test collection with fewer than 25 tells
            little of other queries (Buckley and Voorhees 2000, "Evaluating evaluation measure stability").
    """

    overlap: tuple[int, ...] = (10, 100)
    measures: tuple[str, ...] = ("nDCG@10", "R@100", "RR")
    delta: float = 0.01
    confidence: float = 0.95
    resamples: int = 10_000
    least_queries: int = 25
