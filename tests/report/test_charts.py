"""Charts by their SVG: what is drawn is what the rows hold, and nothing is drawn of nothing."""

from __future__ import annotations

import json
import re

import pytest

from harness.report.page import charts
from harness.report.page.ladder import CHANGED, CLOSE, EQUAL, NOISE, UNKNOWN, Ladder, Strip


def texts(figure: object) -> list[str]:
    svg = charts.svg(figure, "name", "title", page=True)  # type: ignore[arg-type]
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def loss(step: int | None, a: float | None, b: float | None, noise: float | None = None) -> dict[str, object]:
    diff = None if a is None or b is None else abs(a - b)
    return {"quantity": "loss", "step": step, "a": "2.7.1", "b": "2.8.0", "value_a": a, "value_b": b, "diff": diff,
            "noise_diff": noise}  # fmt: skip


def test_losses_are_drawn_with_their_labels_and_the_noise_floor_where_it_is_known():
    rows = [loss(step, 1 / (step + 1), 1 / (step + 1) + step * 1e-6, 1e-9) for step in range(5)]

    assert {"2.7.1", "2.8.0", "loss", "noise floor"} <= set(texts(charts.drawn(charts.loss_chart, rows)))
    unknown = [loss(step, 1.0, 2.0) for step in range(5)]
    assert "noise floor" not in texts(charts.drawn(charts.loss_chart, unknown))


@pytest.mark.parametrize("rows", [[], [loss(None, 1.0, 2.0)], [loss(0, None, 2.0)]])
def test_no_losses_are_no_chart(rows):
    assert charts.drawn(charts.loss_chart, rows) is None


def test_equal_losses_are_a_chart_of_zero():
    assert charts.drawn(charts.loss_chart, [loss(step, 1.0, 1.0) for step in range(3)]) is not None


@pytest.mark.parametrize("details", [None, "{}", "no JSON", "[]", '{"abs_octaves": {"x": 1}}', '{"abs_octaves": {}}'])
def test_tables_without_histograms_are_no_chart(details):
    assert charts.drawn(charts.spread_chart, [{"artifact": "centroids", "details": details}]) is None


def test_a_histogram_has_a_line_for_each_artifact_that_has_one():
    counted = json.dumps({"abs_octaves": {"-20": 5, "-10": 1}, "ulp_octaves": {"0": 6}})
    rows = [{"artifact": "centroids", "details": counted}, {"artifact": "ivf", "details": "{}"}]

    drawn = texts(charts.drawn(charts.spread_chart, rows))

    assert "centroids" in drawn
    assert "ivf" not in drawn


def test_changed_rankings_are_counted_with_ties_apart_and_deployments_that_were_not_searched_left_out():
    rows = [
        {"deployment": "b_on_a", "measure": "identical", "value": 0.9},
        {"deployment": "b_on_a", "measure": "tie_only", "value": 0.04},
    ]

    drawn = texts(charts.drawn(charts.ranks_chart, [("2.7.1 to 2.8.0", rows)]))

    assert "10.0 %" in drawn
    assert not [text for text in drawn if "B in its index" in text]
    assert charts.drawn(charts.ranks_chart, [("2.7.1 to 2.8.0", [])]) is None


def test_a_ladder_shows_every_state_and_one_row_for_all_that_never_move():
    ladder = Ladder(
        [("1", "2"), ("2", "3")],
        [
            Strip("codes", True, (CHANGED, UNKNOWN)),
            Strip("ivf", True, (CLOSE, NOISE)),
            Strip("doclens", False, (EQUAL, EQUAL)),
            Strip("batches", False, (EQUAL, UNKNOWN)),
        ],
    )

    drawn = texts(charts.drawn(charts.ladder_chart, ladder))

    assert {"codes", "ivf", "2 others", "changed", "close", "noise", "equal", "?"} <= set(drawn)
    assert ladder.together == (EQUAL, UNKNOWN)


def test_the_users_own_settings_of_matplotlib_change_nothing():
    from matplotlib import rc_context

    rows = [loss(step, 1.0, 1.5) for step in range(3)]
    plain = charts.svg(charts.drawn(charts.loss_chart, rows), "name", "title")  # type: ignore[arg-type]

    with rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert charts.svg(charts.drawn(charts.loss_chart, rows), "name", "title") == plain  # type: ignore[arg-type]
