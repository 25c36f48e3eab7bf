"""What is said of two trainings, and what is written: the answer first, and never "equal" of what nobody looked at."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from harness.commands.compare import command
from harness.explain.training import Training, training_of
from harness.inputs.matrix_file import load_matrix
from harness.report.columns import TABLES
from harness.report.console import sentences
from harness.report.reduce import Reduced, reduce_cells
from harness.report.screen import Screen, cells
from harness.report.training_text import answer, notes, shown_steps, training_text
from harness.running.choice import Choice
from harness.store.stored import StoredCell
from tests.support.cell_specs import ROOT
from tests.support.trainings import NAMES, STARTS, STEPS, Trainings, one_ulp, planted

MATRIX = load_matrix(ROOT / "matrix.yaml")


def half_more(numbers):
    return numbers * np.float32(1.5)


def one_layer(numbers):
    numbers[STARTS[2] :] *= 2
    return numbers


@pytest.fixture
def trainings(tmp_path, monkeypatch) -> Trainings:
    monkeypatch.setattr("os.fsync", lambda _handle: None)  # a store for a second need not outlive the machine
    return Trainings(tmp_path)


def compared(a: StoredCell, b: StoredCell) -> Training:
    found = training_of(a, b)
    assert found is not None
    return found


def said(trainings: Trainings, fault=None, a: Any = None, **options) -> tuple[str, str]:
    """The answer, and what is noted below it."""
    found = compared(a or trainings.put(), trainings.put("2.8.0", *([fault] if fault else []), **options))
    return answer(found), " ".join(notes(found))


def test_the_answer_names_step_phase_and_parameters(trainings):
    first, more = said(trainings, planted("gradients", 2, one_layer))

    assert first == (
        f"The first difference is in step 2, in the backward pass: gradients of 1 of 3 parameters, first {NAMES[2]}."
    )
    assert "Weights differ from step 2 on, of 1 parameters there and of 3 of 3 (100 %) by step" in more
    assert "neither training is stored with a repeat" in more


def test_a_backward_pass_comes_to_the_projection_first_although_it_is_listed_first(trainings):
    first, _ = said(trainings, planted("gradients", 2, half_more))

    assert first.endswith(f"3 of 3 parameters, first {NAMES[0]}, {NAMES[2]}, {NAMES[1]}.")


def test_what_is_one_number_is_told_with_both_values(trainings):
    first, _ = said(trainings, planted("learning_rate", 0, lambda rate: rate * 2))

    assert first.startswith(
        "The first difference is in step 0, in the optimizer: learning_rate is 0.05 in A and 0.1 in B"
    )


def test_a_number_with_other_bits_and_the_same_value_is_not_told_as_another_number(trainings):
    norm = planted("gradient_norm", 3, lambda _: np.array(0.0, np.float32))
    first, _ = said(
        trainings, planted("gradient_norm", 3, lambda _: np.array(-0.0, np.float32)), trainings.put(fault=norm)
    )

    assert first.endswith("(other bits of the same number).")


def test_nothing_differs(trainings):
    first, more = said(trainings)

    assert first == f"Nothing differs in {STEPS} steps: loss, gradients, weights and all else are equal in every bit."
    assert more == ""


@pytest.mark.parametrize("fault", [planted("gradients", 2, half_more), None], ids=["differs", "equal"])
def test_with_results_only_no_phase_is_told_and_no_equality_beyond_them(trainings, fault):
    first, _ = said(trainings, fault, trainings.put(capture="final"), capture="final")

    assert "A and B were captured with `final`" in first
    assert "first difference" not in first
    if fault is None:
        assert first.startswith(f"Nothing that was compared differs in {STEPS} steps: loss, trained are equal")
    else:
        assert first.startswith("The loss differs first in step 3 (")
        assert "is not known" in first


def test_what_was_not_recorded_is_told_beside_an_equality_and_beside_a_difference(trainings):
    a, lost = trainings.put(), {"gradients": "The hook failed."}
    equal, _ = said(trainings, None, a, without=lost)
    other, _ = said(trainings, planted("gradients", 2, half_more), a, without=lost)

    assert "gradients (B: The hook failed.)" in equal
    assert not equal.startswith("Nothing differs")
    assert other.startswith("The first difference is in step 2, in the clipping of gradients")
    assert "It may have begun earlier. Not known: gradients" in other


def test_other_settings_and_other_numbers_of_steps_are_told(trainings):
    first, more = said(trainings, settings={"maxsteps": 8})

    assert first.startswith("The trainings are not equally long. In the 8 steps that both have, ")
    assert f"maxsteps is {STEPS} in A and 8 in B" in more
    assert f"A has {STEPS} steps and B 8 steps" in more


def test_noise_is_told_as_noise(trainings):
    a = trainings.put()
    trainings.put(fault=planted("gradients", 1, half_more), repeat=1)
    _, noise = said(trainings, planted("gradients", 1, one_ulp()), a)
    _, real = said(trainings, planted("scores", 0, half_more), a)

    assert "that is no more than noise" in noise
    assert "That is above the noise floor, though the same training again differs, too, first in step 1" in real


def test_curves_show_where_the_two_part_and_the_noise_floor(trainings):
    a = trainings.put()
    trainings.put(repeat=1)
    found = compared(a, trainings.put("2.8.0", planted("weights", 4, half_more)))
    steps, text = shown_steps(found), training_text(found)

    assert {0, 3, 4, STEPS - 1} <= set(steps)
    assert "noise" in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line[:1].isdigit()}
    assert lines["4"][3] == "0"
    assert float(lines["5"][3]) > 0
    assert lines["5"][4] == "0"
    assert all(cells(line) <= 70 for line in training_text(found, Screen(70)).splitlines())


# ---- compare


@pytest.fixture
def compare(monkeypatch):
    """The command over two stored cells that nobody looks for."""

    def run(a, b, *options: str):
        monkeypatch.setattr("harness.running.named.named_sources", lambda *_: ((a, b), ""))
        done = CliRunner().invoke(
            command, [a.name, b.name, *options, "--matrix", str(ROOT / "matrix.yaml")], standalone_mode=False
        )
        assert done.exception is None, done.exception
        return done

    return run


def test_compare_begins_with_the_answer_and_exits_with_one(trainings, compare):
    done = compare(trainings.put(), trainings.put("2.8.0", planted("gradients", 2, one_layer)))

    assert done.return_value == 1
    assert done.output.startswith("The first difference is in step 2, in the backward pass: gradients of 1 of 3")
    assert "2.7.1 and 2.8.0 differ beyond 'default'" in done.output


def test_compare_of_equal_trainings_exits_with_zero(trainings, compare):
    done = compare(trainings.put(), trainings.put("2.8.0"))

    assert done.return_value == 0
    assert done.output.startswith("Nothing differs in")


def test_compare_of_trainings_that_differ_before_any_repeat_does_is_no_noise(trainings, compare):
    """Every artifact of the repeat differs, too, and more: by size alone all would be noise."""
    a = trainings.put()
    trainings.put(fault=planted("gradients", 5, lambda g: g * 8), repeat=1)
    b = trainings.put("2.8.0", planted("first_moments", 3, one_ulp()))

    assert compare(a, b).return_value == 1
    assert compare(b, a).return_value == 1
    again = trainings.put("2.8.1", planted("gradients", 6, half_more))
    assert compare(a, again).return_value == 0


def test_an_artifact_that_differs_before_that_of_a_repeat_is_noise_where_the_repeat_parted_before(trainings, compare):
    """The repeat's weights part in step 2 and its learning rate in step 9; B's all part in step 4."""
    early, late = planted("weights", 2, lambda w: w * 2), planted("learning_rate", 9, lambda rate: rate * 4)
    a = trainings.put()
    trainings.put(fault=lambda step, name, numbers: late(step, name, early(step, name, numbers)), repeat=1)
    b = trainings.put("2.8.0", planted("learning_rate", 4, lambda rate: rate * np.float64(1.0000001)))

    assert compare(a, b).return_value == 0


def test_the_json_has_the_curves_and_where_they_part(trainings, compare):
    a = trainings.put()
    trainings.put(repeat=1)
    done = compare(a, trainings.put("2.8.0", planted("gradients", 2, one_layer)), "--json")
    found = json.loads(done.output)["training"]

    assert (found["first"]["step"], found["first"]["phase"], found["first_is_certain"]) == (2, "backward", True)
    assert found["first"]["quantities"] == [
        {"name": "gradients", "n": 3, "n_mismatch": 1, "parts": [NAMES[2]], "a": None, "b": None}
    ]
    assert len(found["loss"]["a"]) == len(found["loss"]["b"]) == STEPS
    assert found["loss"]["noise"] == [0.0] * STEPS
    assert found["changed"]["gradients"][:3] == [0, 0, 1]
    assert found["above_noise"] is True
    assert found["trained"]["n_mismatch"] <= found["trained"]["n"] == STARTS[-1]


# ---- tables


def reduced(trainings: Trainings, versions: list[str]) -> Reduced:
    choice = Choice(trainings.store, tuple(trainings.store.cells()), trainings.store.listed())
    return reduce_cells(MATRIX, choice, versions, trainings.root / "tables")


def rows(trainings: Trainings, name: str) -> list[dict[str, Any]]:
    return pq.read_table(trainings.root / "tables" / f"{name}.parquet").to_pylist()


def test_the_table_has_a_row_for_each_step_and_quantity_of_each_pair(trainings):
    trainings.put()
    trainings.put(repeat=1)
    trainings.put("2.8.0", planted("gradients", 2, one_layer))
    told = sentences(reduced(trainings, ["2.7.1", "2.8.0"]))
    found = rows(trainings, "training")
    pair = {(r["quantity"], r["step"]): r for r in found if r["kind"] == "consecutive" and r["parameter"] is None}

    assert any(
        line.startswith("2.7.1 -> 2.8.0: The first difference is in step 2, in the backward pass") for line in told
    )
    assert [key for key, row in pair.items() if row["first"]] == [("gradients", 2)]
    assert pair["gradients", 2]["n_mismatch"] == 1
    assert pair["gradients", 2]["noise_mismatch"] == 0
    assert pair["loss", 5]["diff"] == pytest.approx(abs(pair["loss", 5]["value_a"] - pair["loss", 5]["value_b"]))
    assert pair["loss", 5]["diff"] > pair["loss", 5]["noise_diff"] == 0
    assert pair["gradients", 2]["value_a"] is None
    assert pair["trained", None]["n"] == STARTS[-1]
    assert pair["trained", None]["noise_mismatch"] == 0 < pair["trained", None]["n_mismatch"]
    assert {r["parameter"] for r in found if r["quantity"] == "trained"} == {None, *NAMES}
    repeat = [r for r in found if r["kind"] == "repeat"]
    assert repeat
    assert not any(r["n_mismatch"] for r in repeat)
    assert set(found[0]) == set(TABLES["training"].columns)
    assert rows(trainings, "consecutive")[0]["first_changed"] == "gradients"


def test_what_could_not_be_compared_has_a_row_that_says_why(trainings):
    trainings.put()
    trainings.put("2.8.0", capture="final")
    told = sentences(reduced(trainings, ["2.7.1", "2.8.0"]))

    unseen = {r["quantity"]: r for r in rows(trainings, "training") if r["unseen"]}
    assert {"gradients", "weights", "batch"} <= set(unseen)
    assert unseen["gradients"]["n"] is None
    assert unseen["gradients"]["first"] is None
    assert any("Nothing that was compared differs" in line for line in told)
