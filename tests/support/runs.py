"""Runs of a few queries, written down as they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.rankings.run import Run

Listed = Sequence[tuple[str, float]]


def run_of(name: str, lists: Mapping[str, Listed]) -> Run:
    """A run from the passages and scores of each query, best first."""
    entries = [entry for one in lists.values() for entry in one]
    return Run.of(
        name, list(lists), np.array([len(one) for one in lists.values()], np.int64),
        np.array([passage for passage, _ in entries], np.str_), np.array([score for _, score in entries], np.float64),
    )  # fmt: skip


def ranked(text: str) -> Listed:
    """A list such as `red (blue green) yellow`, best first; what stands in brackets has one score."""
    entries, score, inside = [], 100.0, False
    for word in text.split():
        inside = inside or word.startswith("(")
        entries.append((word.strip("()"), score))
        inside = inside and not word.endswith(")")
        score -= not inside
    return entries
