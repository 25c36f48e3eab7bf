"""What is said of two lists: against published values, plain loops and scipy, and what ties may and may not do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from harness.errors import ExitCode, UsageError
from harness.rankings.comparison import Comparison, compare_lists, compare_runs
from harness.rankings.run import together
from harness.rankings.settings import Settings
from harness.report.rankings_text import sentences
from tests.support.runs import Listed, ranked, run_of


def records(a: Listed, b: Listed, cutoffs: tuple[int, ...] = (10,), p: float = 0.9):
    left, right = together([run_of("a", {"q": a}), run_of("b", {"q": b})])
    return compare_lists(left, right, cutoffs, p)[0]


def compared(a: dict[str, Listed], b: dict[str, Listed], settings: Settings | None = None) -> Comparison:
    return compare_runs(run_of("a", a), run_of("b", b), settings or Settings())


lists = st.builds(
    lambda names, scores: list(zip(names, sorted(scores[: len(names)], reverse=True), strict=True)),
    st.lists(st.sampled_from("abcdefghijklmnop"), unique=True, max_size=12),
    st.lists(st.sampled_from([1.0, 2.0, 2.5, 3.0, 7.0, 8.0]), min_size=12, max_size=12),
)
"""Ranked lists of a few of the same passages, with many ties."""


# ---- ties on one side


def test_lists_of_one_order_whose_scores_are_tied_on_one_side_are_said_to_be_why_rbo_is_below_1():
    one, ties, moved = ranked("red blue green"), ranked("red (blue green)"), ranked("green blue red")

    found = compared({"1": one, "2": one, "3": one}, {"1": ties, "2": one, "3": moved})
    told = " ".join(sentences(found, Settings()))

    assert (found.each["identical"].tolist(), found.tied_on_one_side) == ([True, True, False], 1)
    assert found.each["rbo"][0] < 1 > found.each["tau_b"][0]
    assert "In 1 list of the same order, passages have equal scores on one side only" in told
    assert "one side only" not in " ".join(sentences(compared({"1": ties}, {"1": ties}), Settings()))


# ---- RBO


@pytest.mark.parametrize(
    ("a", "b", "p", "published"),
    [
        # Corsi and Urbano 2024, RBO^w_EXT in the README of their own implementation: ties and unequal lengths
        ("red (blue green) yellow pink", "(blue red) white (yellow black purple) green", 0.95, 0.7068257),
        # README of b4ny4n/rankmeasures and documentation of rbo on PyPI; no ties
        ("1 2 3 4 5", "2 3 4 1 5", 0.9, 0.828),
        ("1 2 3", "3 2 1", 0.9, 0.855),
    ],
)
def test_rbo_is_what_others_published(a, b, p, published):
    for left, right in itertools.permutations((ranked(a), ranked(b))):
        assert records(left, right, p=p)["rbo"] == pytest.approx(published, abs=5e-8)


def equation_32(x: list[str], y: list[str], p: float) -> float:
    """RBO_EXT of lists without ties, term by term (Webber, Moffat, Zobel 2010)."""
    short, long = sorted((x, y), key=len)
    s, l = len(short), len(long)  # noqa: E741
    overlap = [len({*short[:d]} & {*long[:d]}) for d in range(l + 1)]
    first = sum(overlap[d] / d * p**d for d in range(1, l + 1))
    second = sum(overlap[s] * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (first + second) + ((overlap[l] - overlap[s]) / l + overlap[s] / s) * p**l


@given(
    st.lists(st.integers(0, 20), unique=True, min_size=1), st.lists(st.integers(0, 20), unique=True, min_size=1),
    st.floats(0.1, 0.99),
)  # fmt: skip
def test_rbo_without_ties_is_equation_32(x, y, p):
    a, b = ([(str(one), -float(rank)) for rank, one in enumerate(side)] for side in (x, y))

    expected = equation_32([name for name, _ in a], [name for name, _ in b], p)

    assert records(a, b, p=p)["rbo"] == pytest.approx(expected, abs=1e-12)


@given(lists, lists)
def test_rbo_is_a_share_and_does_not_know_which_list_is_which(a, b):
    found = records(a, b)["rbo"]

    assert -1e-12 <= found <= 1 + 1e-12
    assert found == pytest.approx(records(b, a)["rbo"], abs=1e-12)
    assert records(a, a)["rbo"] == pytest.approx(1, abs=1e-12)


def test_lists_of_nothing():
    assert records([], [])["rbo"] == 1
    assert records(ranked("a b"), [])["rbo"] == 0
    assert records([], [])["identical"]
    assert records([], [])["top1_same"]
    assert records([], [])["overlap"][0] == 1
    assert not records(ranked("a"), [])["identical"]


# ---- tau-b, overlap, scores


@given(lists, lists)
def test_tau_b_is_scipys_of_what_both_have(a, b):
    scores_a, scores_b = dict(a), dict(b)
    both = sorted(scores_a.keys() & scores_b.keys())
    expected = (
        kendalltau([scores_a[one] for one in both], [scores_b[one] for one in both]).statistic
        if len(both) > 1
        else np.nan
    )

    assert records(a, b)["tau_b"] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(lists, lists)
def test_the_rest_is_what_a_plain_loop_says(a, b):
    found = records(a, b, (1, 3, 10))
    names_a, names_b = ([name for name, _ in side] for side in (a, b))
    shared = dict(a).keys() & dict(b).keys()

    assert found["identical"] == (names_a == names_b)
    assert found["top1_same"] == (names_a[:1] == names_b[:1])
    for k, overlap in zip((1, 3, 10), found["overlap"], strict=True):
        depth = min(k, max(len(a), len(b)))
        assert overlap == (len({*names_a[:k]} & {*names_b[:k]}) / depth if depth else 1)
    expected = max((abs(dict(a)[one] - dict(b)[one]) for one in shared), default=np.nan)
    assert found["max_score_diff"] == pytest.approx(expected, nan_ok=True)


# ---- ties


@given(lists, st.randoms())
def test_a_list_whose_ties_were_shuffled_differs_in_its_ties_only(a, random):
    groups = [list(group) for _, group in itertools.groupby(a, key=lambda entry: entry[1])]
    for group in groups:
        random.shuffle(group)
    b = [entry for group in groups for entry in group]

    found = records(a, b)

    assert found["identical"] or found["tie_only"]
    assert not (found["identical"] and found["tie_only"])
    assert found["rbo"] == pytest.approx(1, abs=1e-12)
    assert np.isnan(found["tau_b"]) or found["tau_b"] == pytest.approx(1)


@given(lists, lists)
def test_ties_only_means_that_each_pair_that_is_turned_round_is_a_tie_on_both_sides(a, b):
    places = [{name: place for place, (name, _) in enumerate(side)} for side in (a, b)]
    turned = [
        (one, other)
        for one, other in itertools.combinations(dict(a), 2)
        if one in places[1] and other in places[1] and places[1][one] > places[1][other]
    ]
    ties = all(dict(side)[one] == dict(side)[other] for side in (a, b) for one, other in turned)

    assert records(a, b)["tie_only"] == bool(turned and ties and dict(a).keys() == dict(b).keys())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x y", "y x"),
        ("(x y) z", "y x z"),  # a tie on one side only: B says that y is better
        ("x (y z)", "x (y w)"),  # another passage, even where the tie was cut
        ("(x y) z", "(x z) y"),
    ],
)
def test_what_is_no_mere_order_of_ties(a, b):
    found = records(ranked(a), ranked(b))

    assert not found["tie_only"]
    assert not found["identical"]


# ---- both runs


def test_queries_of_one_side_only_are_told_and_are_no_equality():
    found = compared({"1": ranked("a b"), "2": ranked("c")}, {"2": ranked("c"), "3": ranked("d"), "1": ranked("a b")})

    assert (found.queries, found.only_a, found.only_b) == (2, (), ("3",))
    assert found.equivalent
    assert found.outcome == ExitCode.USAGE
    assert found.to_json()["only_b"] == ["3"]


def test_no_query_in_common_is_refused():
    with pytest.raises(UsageError, match="No query is in both a and b"):
        compared({"1": ranked("a")}, {"2": ranked("a")})


def test_queries_are_matched_by_name_and_passages_too():
    a = {"1": ranked("p q r"), "2": ranked("r s")}
    b = {"2": ranked("r s"), "1": ranked("p q r")}

    found = compared(a, b)

    assert found.mean("identical") == 1
    assert found.outcome == ExitCode.OK
    assert found.most_changed == []


def test_another_order_is_a_divergence_and_another_order_of_ties_is_none():
    a = {"1": ranked("p (q r)"), "2": ranked("p q")}
    ties = compared(a, {"1": ranked("p (r q)"), "2": ranked("p q")})
    other = compared(a, {"1": ranked("p (q r)"), "2": ranked("q p")})

    assert (ties.outcome, other.outcome) == (ExitCode.OK, ExitCode.DIVERGENCE)
    assert (ties.mean("tie_only"), ties.mean("identical")) == (0.5, 0.5)
    assert other.equivalent is None
    assert other.to_json()["most_changed"][0]["qid"] == "2"


def test_scores_alone_are_no_divergence_but_are_told():
    found = compared({"1": [("a", 2.0), ("b", 1.0)]}, {"1": [("a", 2.5), ("b", 1.0)]})

    assert found.outcome == ExitCode.OK
    assert found.max_score_diff == 0.5


def test_the_json_is_that_of_the_contract():
    found = compared({"1": ranked("a b")}, {"1": ranked("b a")}, Settings(overlap=(1, 100))).to_json()

    assert list(found)[:11] == [
        "a", "b", "queries", "identical", "top1_same", "overlap", "rbo", "tau_b", "tie_only", "max_score_diff",
        "measures",
    ]  # fmt: skip
    assert found["overlap"] == {"1": 0.0, "100": 1.0}
    assert found["tau_b"] == -1


def test_what_is_shown_of_a_query_is_where_its_lists_differ():
    names = [f"d{n}" for n in range(40)]
    late = [*names[:20], names[21], names[20], *names[22:]]
    early = [names[1], names[0], *names[2:]]

    for other, rank, first in ((late, 20, ("d19", "d19")), (early, 1, ("d0", "d1")), (names[:15], 15, ("d14", "d14"))):
        found = compared({"q": ranked(" ".join(names))}, {"q": ranked(" ".join(other))})
        told = found.to_json()["most_changed"][0]
        assert told["rank"] == rank
        assert (told["a"][0][0], told["b"][0][0]) == first
        assert [name for name, _ in told["a"]] != [name for name, _ in told["b"]]


def test_the_share_of_ties_is_that_of_neighbours():
    assert run_of("a", {"1": ranked("a (b c) d"), "2": ranked("(a b)"), "3": ranked("a"), "4": []}).tied == 2 / 4
    assert run_of("a", {"1": ranked("a")}).tied is None
