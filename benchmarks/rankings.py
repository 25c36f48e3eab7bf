"""How long comparing many runs takes: each run is read and measured once, and each pair compared.

    python benchmarks/rankings.py                   # 19 runs of 500 queries x 1,000 passages: 171 pairs
    python benchmarks/rankings.py --runs 4

The runs are made of one set of scores with noise of different sizes, rounded to float16, so that most lists differ from
each other and hold ties: equal lists would be the easy case. Every query has 20 judged passages.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.rankings.comparison import compare_runs
from harness.rankings.measures import Judge
from harness.rankings.run import Run, together
from harness.rankings.settings import Settings
from harness.rankings.trec import read_run, write_run

CANDIDATES = 3
"""Passages that have a score, for each that is in a list."""


def make(number: int, queries: int, depth: int) -> Run:
    """One run; the greater its number, the further it is from the others."""
    scores = np.random.default_rng(0).standard_normal((queries, CANDIDATES * depth))
    scores += number * 1e-3 * np.random.default_rng(number).standard_normal(scores.shape)
    scores = scores.astype(np.float16).astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    best = np.take_along_axis(scores, order, axis=1)
    qids = [f"query-{one}" for one in range(queries)]
    return Run.of(f"run-{number}", qids, np.full(queries, depth), order.ravel(), best.ravel())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=19)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--depth", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    judged = rng.integers(0, CANDIDATES * options.depth, (options.queries, 20))
    qrels = {f"query-{query}": {str(one): 1 for one in row} for query, row in enumerate(judged.tolist())}
    settings = Settings()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.run" for number in range(options.runs)]
        for number, path in enumerate(paths):
            write_run(path, make(number, options.queries, options.depth))
        seconds: dict[str, float] = {}
        wall = time.perf_counter()

        def clock(what: str, start: float) -> None:
            seconds[what] = time.process_time() - start

        start = time.process_time()
        runs = [read_run(path) for path in paths]
        clock("read the runs", start)
    start = time.process_time()
    runs = together(runs)
    judge = Judge(qrels, settings.measures)
    values = [judge.values(run) for run in runs]
    clock("measure each run", start)
    start = time.process_time()
    pairs = list(itertools.combinations(range(len(runs)), 2))
    for a, b in pairs:
        compare_runs(runs[a], runs[b], settings, judge, (values[a], values[b])).to_json()
    clock(f"compare {len(pairs)} pairs, with intervals", start)
    wall = time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.runs} runs of {options.queries} queries x {options.depth} passages, {os.cpu_count()} cores.")
    seconds["all of it"] = sum(seconds.values())
    for what, used in seconds.items():
        print(f"- {what}: {used:.1f} s of the processor")
    print(f"- by the clock: {wall:.1f} s, with {peak:.0f} MiB at most")


if __name__ == "__main__":
    main()
