"""Measures follow the searcher's order, intervals are a plain bootstrap's, and equivalence is no lack of proof."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from harness.errors import ExitCode, UsageError
from harness.rankings.comparison import compare_runs
from harness.rankings.measures import Judge, intervals
from harness.rankings.settings import Settings
from tests.support.runs import ranked, run_of

NAMES = ("nDCG@10", "R@100", "RR")


def ndcg(ranking: list[str], judged: dict[str, int], k: int) -> float:
    """nDCG@k with the grade as the gain, as trec_eval has it."""

    def dcg(grades: list[int]) -> float:
        return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades[:k]))

    return dcg([judged.get(one, 0) for one in ranking]) / dcg(sorted(judged.values(), reverse=True))


def test_measures_are_their_definitions():
    ranking = [f"d{n}" for n in range(120)]
    judged = {"d3": 1, "d7": 3, "d110": 1, "elsewhere": 2, "d0": 0}
    found = Judge({"q": judged}, NAMES).values(run_of("a", {"q": ranked(" ".join(ranking))}))

    assert found["nDCG@10"][0] == pytest.approx(ndcg(ranking, judged, 10), abs=1e-9)
    assert found["R@100"][0] == pytest.approx(2 / 4)
    assert found["RR"][0] == pytest.approx(1 / 4)


@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["d", "c", "b", "a"]])
def test_measures_follow_the_order_of_the_run_whatever_ties_its_scores_have(names):
    """trec_eval's own order is by score, and by name where scores are equal."""
    tied = run_of("tied", {"q": [(name, 1.0) for name in names]})
    rising = run_of("rising", {"q": [(name, float(rank)) for rank, name in enumerate(names)]})
    judge = Judge({"q": {names[2]: 1}}, NAMES)

    for run in (tied, rising):
        assert judge.values(run)["RR"][0] == pytest.approx(1 / 3)


def test_a_list_longer_than_float32_could_tell_apart_is_measured_in_order():
    n = 3000
    run = run_of("a", {"q": [(f"d{place}", 0.0) for place in range(n)]})

    assert Judge({"q": {f"d{n - 1}": 1}}, NAMES).values(run)["RR"][0] == pytest.approx(1 / n)


def test_queries_without_a_relevant_passage_are_not_measured():
    run = run_of("a", {"1": ranked("a b"), "2": ranked("a b"), "3": ranked("a b")})
    judge = Judge({"1": {"a": 1}, "2": {"a": 0, "b": -2}, "elsewhere": {"a": 1}}, NAMES)

    assert judge.judged(run.qids) == ("1",)
    assert np.isnan(judge.values(run)["RR"]).tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["nDCG@ten", "Nothing@10", "__import__('os')", "alpha_nDCG@10", ""])
def test_a_measure_that_nobody_can_compute_is_one_sentence(name):
    with pytest.raises(UsageError, match="takes names of ir_measures"):
        Judge({"q": {"a": 1}}, [name])


# ---- intervals


def test_an_interval_is_scipys_own_paired_bootstrap():
    rng = np.random.default_rng(1)
    differences = np.where(rng.random((3, 200)) < 0.3, rng.standard_normal((3, 200)), 0.0)

    found = intervals(differences, 0.95, 5000)

    for row, ends in zip(differences, found, strict=True):
        plain = bootstrap((row,), np.mean, method="percentile", n_resamples=5000, rng=2).confidence_interval
        assert ends == pytest.approx((plain.low, plain.high), abs=0.1 * (plain.high - plain.low))
        assert ends[0] < row.mean() < ends[1]


def test_the_seed_is_fixed():
    differences = np.random.default_rng(1).standard_normal((2, 50))

    assert intervals(differences, 0.9, 1000) == intervals(differences, 0.9, 1000)


def test_no_difference_at_all_is_an_interval_of_nothing():
    assert intervals(np.zeros((2, 50)), 0.95, 1000) == [(0.0, 0.0), (0.0, 0.0)]


def test_the_same_difference_everywhere_is_that_difference():
    assert intervals(np.full((1, 50), 0.25), 0.95, 1000) == [(0.25, 0.25)]


# ---- equivalence


def worse(n: int, changed: int):
    """Two runs of `n` queries, of which the relevant passage falls from rank 1 to rank 2 in some."""
    a = {str(q): ranked("good bad") for q in range(n)}
    b = {str(q): ranked("bad good" if q < changed else "good bad") for q in range(n)}
    qrels = {str(q): {"good": 1} for q in range(n)}
    settings = Settings(measures=("RR",), delta=0.05)
    return compare_runs(run_of("a", a), run_of("b", b), settings, Judge(qrels, settings.measures))


def test_a_small_difference_over_many_queries_is_equivalent_and_a_large_one_is_not():
    small, large = worse(500, 5), worse(500, 200)

    assert small.measures["RR"].diff == pytest.approx(-0.005)
    assert (small.equivalent, small.outcome) == (True, ExitCode.OK)
    assert (large.equivalent, large.outcome) == (False, ExitCode.DIVERGENCE)


def test_that_no_difference_is_proven_is_not_that_there_is_none():
    """Half got better by as much as half got worse: the interval holds zero, and does not lie within delta."""
    a = {str(q): ranked("good bad" if q % 2 else "bad good") for q in range(40)}
    b = {str(q): ranked("bad good" if q % 2 else "good bad") for q in range(40)}
    settings = Settings(measures=("RR",), delta=0.05)
    judge = Judge({str(q): {"good": 1} for q in range(40)}, settings.measures)

    found = compare_runs(run_of("a", a), run_of("b", b), settings, judge).measures["RR"]

    assert found.interval is not None
    assert found.interval[0] < 0 < found.interval[1]
    assert found.diff == 0
    assert found.equivalent is False


def test_the_edge_of_the_interval_decides_and_not_its_middle():
    found = worse(60, 4).measures["RR"]

    assert found.interval is not None
    assert abs(found.diff) < found.delta < -found.interval[0]
    assert found.equivalent is False


def test_few_queries_say_nothing_of_others_unless_their_lists_are_the_same():
    few, none = worse(24, 1), worse(24, 0)

    assert few.measures["RR"].interval is None
    assert (few.equivalent, few.outcome) == (None, ExitCode.DIVERGENCE)
    assert (none.equivalent, none.outcome) == (True, ExitCode.OK)


def test_judgements_of_other_queries_are_refused():
    with pytest.raises(UsageError, match="a relevant passage for none of the queries"):
        compare_runs(
            run_of("a", {"1": ranked("a")}), run_of("b", {"1": ranked("a")}), Settings(), Judge({"2": {"a": 1}}, NAMES)
        )


def test_judgements_of_passages_that_nobody_found_are_no_equivalence():
    """Such as names of another collection: both runs have zero everywhere."""
    a, b = ({str(q): ranked(text) for q in range(30)} for text in ("1 2 3", "2 1 3"))
    judge = Judge({str(q): {"passage-1": 1} for q in range(30)}, NAMES)

    with pytest.raises(UsageError, match="with the run's own names of passages"):
        compare_runs(run_of("a", a), run_of("b", b), Settings(), judge)


def test_queries_that_changed_most_come_first_by_the_first_measure():
    found = worse(30, 3)

    assert found.most_changed == [0, 1, 2]
    told = found.to_json()["most_changed"][0]
    assert told["measures"] == {"RR": -0.5}
    assert [name for name, _ in told["a"]] == ["good", "bad"]
