"""Each answer, planted: from what four deployments of a step return to whether to index again."""

from __future__ import annotations

import pytest

from harness.rankings.comparison import Comparison, compare_runs
from harness.rankings.measures import Judge
from harness.rankings.settings import Settings
from harness.rankings.verdict import MUST_REINDEX, Evidence, judge
from tests.support.runs import ranked, run_of

N = 60
QRELS = {str(query): {"good": 1} for query in range(N)}
BEFORE = ["good (so so2) bad"] * N
SAME_BUT_TIES = ["good (so2 so) bad", *BEFORE[1:]]
ONE_MOVED = ["good bad (so so2)", *BEFORE[1:]]
"""Lists that differ in what nobody judged."""
WORSE = ["bad (so so2) good"] * N


def against(lists: list[str], *, judged: bool = True, lower: float = 0.0) -> Comparison:
    """Rankings of a deployment against those of A on A; `lower` is taken from each score."""
    a, b = (
        run_of(name, {str(q): [(one, score - less) for one, score in ranked(text)] for q, text in enumerate(texts)})
        for name, texts, less in (("a_on_a", BEFORE, 0.0), ("other", lists, lower))
    )
    settings = Settings()
    return compare_runs(a, b, settings, Judge(QRELS, settings.measures) if judged else None)


def answer(mixed: Comparison | None, new: Comparison | None, *, same_index: bool | None = False, **more) -> str:
    found = {name: one for name, one in (("b_on_a", mixed), ("b_on_b", new)) if one is not None}
    return judge(Evidence("2.7.1", "2.8.0", same_index, found, **more)).answer


@pytest.mark.parametrize("judged", [True, False])
def test_the_same_index_and_the_same_bits_are_unchanged(judged):
    same = against(BEFORE, judged=judged)

    assert answer(same, same, same_index=True) == "unchanged"
    assert answer(same, same, same_index=False) == "keep"
    assert answer(same, same, same_index=None) == "keep"


def test_other_scores_and_other_ties_are_not_unchanged_but_nothing_to_act_on():
    for other in (against(BEFORE, lower=0.5), against(SAME_BUT_TIES)):
        assert answer(other, other, same_index=True) == "keep"


def test_equivalent_measures_of_other_lists_keep_the_index():
    assert answer(against(ONE_MOVED), against(WORSE)) == "keep"


def test_lists_that_differ_without_judgements_are_not_known_to_be_equivalent():
    moved = against(ONE_MOVED, judged=False)

    assert answer(moved, moved) == "investigate"
    assert "no judgements" in judge(Evidence("a", "b", False, {"b_on_a": moved, "b_on_b": moved})).sentence


def test_what_is_lost_in_the_old_index_and_found_in_a_new_one_wants_a_new_one():
    assert answer(against(WORSE), against(ONE_MOVED)) == "re-index"
    assert answer(against(WORSE, judged=False), against(SAME_BUT_TIES, judged=False)) == "re-index"


def test_what_a_new_index_does_not_mend_wants_a_look():
    assert answer(against(WORSE), against(WORSE)) == "investigate"
    assert answer(against(WORSE), None) == "investigate"


def test_a_search_that_changed_over_the_same_index_wants_no_new_one():
    found = judge(Evidence("a", "b", True, {"b_on_a": against(WORSE), "b_on_b": against(WORSE)}))

    assert found.answer == "investigate"
    assert "a new one would be no other" in found.sentence


def test_nothing_is_said_where_nobody_searched_the_old_index():
    assert answer(None, against(BEFORE)) == "investigate"
    assert answer(None, None, same_index=True) == "investigate"


def test_a_search_that_does_not_repeat_itself_decides_nothing():
    same, worse = against(BEFORE), against(WORSE)

    assert answer(same, same, repeats={"a_on_a": worse}) == "investigate"
    assert answer(same, same, repeats={"a_on_a": against(SAME_BUT_TIES)}) == "keep"


def test_searches_of_other_queries_decide_nothing():
    settings = Settings()
    part = compare_runs(
        run_of("a", {"1": ranked("x"), "2": ranked("x")}), run_of("b", {"1": ranked("x")}), settings, None
    )

    assert answer(part, part, same_index=True) == "investigate"


def test_a_verdict_has_its_numbers_and_what_it_does_not_cover():
    found = judge(
        Evidence("2.7.1", "2.8.0", False, {"b_on_a": against(ONE_MOVED)}, caveats=("The checkpoint was not trained.",))
    )

    assert "2.7.1 -> 2.8.0: keep the index." in found.sentence
    assert "1 of 60 lists differ" in found.sentence
    assert "nDCG@10 +0.0000 [+0.0000, +0.0000]" in found.sentence
    assert any("none was run again" in one for one in found.uncovered)
    assert found.uncovered[-1] == "The checkpoint was not trained."
    assert MUST_REINDEX[found.to_json()["verdict"]] == "no: keep"
