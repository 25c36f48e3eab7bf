"""Two trainings step by step, over planted data: what parts first, in which phase, and beyond what noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.artifacts.comparison import compare_sources
from harness.artifacts.ladder import all_digests, ladder
from harness.artifacts.train_job import TRAIN
from harness.explain.training import compare_training, training_of
from harness.store.stored import StoredCell
from tests.support.cell_specs import cell, spec
from tests.support.trainings import ACCUMSTEPS, NAMES, SIZES, STARTS, STEPS, Fault, Trainings, none, one_ulp, planted

LINEAR, EMBEDDINGS, LAYER = NAMES


@pytest.fixture
def trainings(tmp_path, monkeypatch) -> Trainings:
    monkeypatch.setattr("os.fsync", lambda _handle: None)  # a store for a second need not outlive the machine
    return Trainings(tmp_path)


def half_more(numbers):
    return numbers * np.float32(1.5)


def both(a: StoredCell, b: StoredCell) -> Any:
    """Two trainings compared."""
    found = compare_training(a, b)
    assert found is not None
    return found


def with_repeats(a: StoredCell, b: StoredCell) -> Any:
    """The same beside the noise floor."""
    found = training_of(a, b)
    assert found is not None
    return found


def compared(trainings: Trainings, *faults: Fault, **options: Any) -> Any:
    """A without a fault against B with these."""

    def fault(step, name, numbers):
        for one in faults:
            numbers = one(step, name, numbers)
        return numbers

    return both(trainings.put(), trainings.put("2.8.0", fault, **options))


def swapped_rows(batch):
    batch[[0, 1]] = batch[[1, 0]]
    return batch


PLANTED = [
    ("batch", "batch", swapped_rows, 3),
    ("input_ids", "batch", lambda ids: ids + 1, 0),
    ("random_before", "random state", lambda state: state + np.arange(4) // 2 % 2, 5),
    ("scores", "forward", one_ulp(), 0),
    ("loss", "loss", one_ulp(), 4),
    ("scale", "scaler", lambda scale: scale * 2, 2),
    ("gradients", "backward", one_ulp(STARTS[2]), 1),
    ("gradient_norm", "clip", one_ulp(), 6),
    ("clipped", "clip", one_ulp(), STEPS - 1),
    ("skipped", "scaler", lambda _: np.int64(1), 2),
    ("learning_rate", "optimizer", lambda rate: rate * 2, 7),
    ("first_moments", "optimizer", one_ulp(), 0),
    ("second_moments", "optimizer", one_ulp(), 3),
    ("weights", "optimizer", one_ulp(), 8),
]


@pytest.mark.parametrize(("name", "phase", "change", "step"), PLANTED, ids=[one[0] for one in PLANTED])
def test_each_planted_fault_is_found_in_its_step_and_phase(trainings, name, phase, change, step):
    found = compared(trainings, planted(name, step, change))

    assert found.start is not None
    assert (found.start.step, found.start.phase) == (step, phase)
    assert found.start.quantities[0].name == name
    assert found.differs
    assert not found.unseen
    assert found.to_json()["first"]["quantities"][0]["name"] == name


def test_a_against_a_differs_in_nothing(trainings):
    found = compared(trainings)

    assert not found.differs
    assert found.start is None
    assert found.trained.equal
    assert {one.name: one.changed.sum() for one in found.quantities if one.changed.any()} == {}
    assert found.greatest_loss == 0


def test_the_parameters_that_differ_first_are_those_of_the_first_step_only(trainings):
    """One ULP in one gradient is one parameter's; a step later the loss has handed it to all."""
    found = compared(
        trainings,
        planted("gradients", 2, lambda g: g + np.where(np.arange(len(g)) == STARTS[2], 1e-3, 0).astype(g.dtype)),
    )
    (gradients,) = found.start.quantities

    assert found.start.parts(gradients) == (LAYER,)
    assert gradients.changed[2] == 1
    assert gradients.changed[:2].sum() == 0
    weights = found.quantity("weights")
    assert weights.changed[2] < weights.changed[-1] == len(NAMES)
    assert np.all(np.diff(weights.changed) >= 0)


def test_streams_of_a_random_state_have_names(trainings):
    found = compared(trainings, planted("random_before", 5, lambda state: state + np.array([0, 0, 1, 0])))

    assert found.start.parts(found.start.quantities[0]) == ("torch",)


def test_the_first_of_two_faults_in_one_step_is_what_comes_first_in_a_step(trainings):
    found = compared(trainings, planted("weights", 1, one_ulp()), planted("loss", 1, one_ulp()))

    assert (found.start.step, found.start.phase) == (1, "loss")


def test_an_earlier_step_comes_before_an_earlier_phase(trainings):
    found = compared(trainings, planted("weights", 1, one_ulp()), planted("batch", 2, swapped_rows))

    assert (found.start.step, found.start.phase) == (1, "optimizer")


def test_a_zero_of_the_other_sign_is_a_difference_of_bits_and_no_distance(trainings):
    def zero(sign):
        def fault(step, name, numbers):
            return (
                np.where(np.arange(numbers.size) == 0, np.float32(sign * 0.0), numbers)
                if name == "weights" and step == STEPS - 1
                else numbers
            )

        return fault

    found = both(trainings.put(fault=zero(1)), trainings.put("2.8.0", zero(-1)))

    assert found.differs
    assert (found.start.step, found.start.phase) == (STEPS - 1, "optimizer")
    assert not found.trained.equal
    assert (found.trained.whole.n_mismatch, found.trained.whole.distance) == (1, 0.0)
    assert list(found.trained.parameters) == [LINEAR]


def test_the_loss_of_a_step_is_the_sum_over_its_micro_batches(trainings):
    a = trainings.put()
    found = both(a, trainings.put("2.8.0", planted("loss", 4, one_ulp(1))))
    loss = found.quantity("loss")
    rows = a.load("loss").data.astype(np.float64)

    assert rows.shape == (STEPS, ACCUMSTEPS)
    assert loss.a.tolist() == rows.sum(axis=1).tolist()
    assert loss.apart[4] == pytest.approx(np.spacing(rows[4, 1].astype(np.float32)))
    assert not loss.apart[:4].any()


def test_the_distance_of_trained_weights_is_relative_to_b_and_told_for_each_parameter(trainings):
    a = trainings.put()
    found = both(
        a,
        trainings.put(
            "2.8.0", planted("weights", STEPS - 1, lambda w: np.where(np.arange(w.size) < SIZES[0], 2 * w, w))
        ),
    )
    assert list(found.trained.parameters) == [LINEAR]
    assert found.trained.parameters[LINEAR].distance == pytest.approx(0.5)
    assert 0 < found.trained.whole.distance < 0.5


# ---- what is not known is not said to be equal


def test_with_only_the_results_kept_the_phase_is_not_known(trainings):
    found = both(
        trainings.put(capture="final"), trainings.put("2.8.0", planted("gradients", 2, half_more), capture="final")
    )

    assert [one.name for one in found.quantities] == ["loss"]
    assert "gradients" in found.unseen
    assert not found.to_json()["first_is_certain"]
    assert found.differs


def test_one_side_with_results_only_is_as_little_known(trainings):
    found = compared(trainings, capture="final")

    assert [one.name for one in found.quantities] == ["loss"]
    assert found.unseen["weights"].startswith("B: ")
    assert not found.differs


def test_what_could_not_be_recorded_is_not_compared_and_says_why(trainings):
    found = compared(trainings, without={"gradients": "The hook failed."})

    assert found.unseen == {"gradients": "B: The hook failed."}


def test_digests_of_another_revision_are_not_compared_and_numbers_are(trainings):
    a = trainings.put()
    b = trainings.put(of=replace(a.cell.spec, version="2.8.0", revision=7))

    found = both(a, b)

    of_digests = {made.name for made in TRAIN.made if made.digests}
    assert of_digests
    assert found.unseen.keys() == of_digests
    assert {reason for reason in found.unseen.values() if "another formula" in reason} == set(found.unseen.values())
    assert {one.name for one in found.quantities} >= {"loss", "scores", "gradient_norm"}
    assert [one.what for one in found.otherwise] == ["revision"]


def test_whether_digests_of_another_revision_differ_is_known_to_no_comparison(trainings):
    a, b = trainings.put(), trainings.put("2.8.0", planted("weights", 3, half_more))
    other = StoredCell(b.store, replace(b.cell, spec=replace(b.cell.spec, revision=7)))
    of_digests = {made.name for made in TRAIN.made if made.digests} & set(a.names())

    assert "weights" in {one.name for one in compare_sources(a, b).artifacts if one.divergent}
    found = compare_sources(a, other)
    assert {one.name for one in found.artifacts if one.unknown} == of_digests != set()
    assert "weights" not in {one.name for one in found.artifacts if one.divergent}

    digests = [all_digests([a, one]) for one in (b, other)]
    steps = [ladder(list(zip("ab", (one for one, _ in both), strict=True)), kind=TRAIN).steps[0] for both in digests]
    assert "weights" in steps[0].changed
    assert not of_digests & set(steps[1].changed)
    assert sum("another formula" in told for told in digests[1][1][1]) == len(of_digests)


def test_a_damaged_tensor_is_not_taken_for_a_difference(trainings):
    a, b = trainings.put(), trainings.put("2.8.0", planted("loss", 3, half_more))
    path = trainings.store.object_path(b.digest("loss"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))

    found = both(a, b)

    assert "is damaged" in found.unseen["loss"]
    assert found.start.step == 3
    assert found.start.quantities[0].name == "gradients"


def test_another_number_of_steps_is_a_difference_and_only_the_shared_ones_are_compared(trainings):
    found = compared(trainings, settings={"maxsteps": 8})

    assert found.steps == (STEPS, 8)
    assert found.start is None
    assert found.differs
    assert all(len(one.different) == 8 for one in found.quantities)
    assert [(one.what, one.a, one.b) for one in found.otherwise] == [("maxsteps", str(STEPS), "8")]


def test_other_inputs_and_settings_are_named(trainings):
    checkpoint = {"name": "other", "digest": "feed" * 8, "dim": 8}
    b = trainings.put(of=spec("2.8.0", job="train", settings={"lr": 0.05}, checkpoint=checkpoint, lock="another"))

    told = {one.what for one in both(trainings.put(), b).otherwise}

    assert {"checkpoint", "maxsteps", "bsize"} <= told
    assert not {"lock", "version"} & told


def test_cells_of_another_kind_are_no_trainings(trainings):
    other = StoredCell(trainings.store, trainings.store.put(cell()))

    assert compare_training(trainings.put(), other) is None
    assert training_of(other, other) is None
    assert training_of(trainings.put(), object()) is None


# ---- noise


def test_a_difference_that_begins_before_that_of_any_repeat_is_above_noise(trainings):
    a = trainings.put()
    trainings.put(fault=planted("gradients", 6, lambda g: g * 2), repeat=1)
    b = trainings.put("2.8.0", planted("gradients", 1, one_ulp()))

    found = with_repeats(a, b)

    assert len(found.repeats) == 1
    assert (found.noise.step, found.noise.phase) == (6, "backward")
    assert found.above_noise is True


def test_a_difference_as_early_and_as_great_as_a_repeats_is_noise(trainings):
    a = trainings.put()
    trainings.put(fault=planted("gradients", 1, lambda g: g * 1.5), repeat=1)
    b = trainings.put("2.8.0", planted("gradients", 2, one_ulp()))

    assert with_repeats(a, b).above_noise is False


def test_a_difference_that_is_much_greater_than_a_repeats_is_not(trainings):
    a = trainings.put()
    trainings.put(fault=planted("gradients", 1, one_ulp()), repeat=1)
    b = trainings.put("2.8.0", planted("gradients", 1, lambda g: g * 2))

    assert with_repeats(a, b).above_noise is True


def test_a_repeat_of_b_counts_as_well(trainings):
    a, b = trainings.put(), trainings.put("2.8.0", planted("scores", 0, one_ulp()))
    trainings.put("2.8.0", none, repeat=1)

    found = with_repeats(a, b)

    assert (found.noise.step, found.noise.phase) == (0, "forward")
    assert found.above_noise is False


def test_without_a_repeat_the_noise_floor_is_not_known(trainings):
    found = with_repeats(trainings.put(), trainings.put("2.8.0", planted("scores", 0, one_ulp())))

    assert found.above_noise is None
    assert found.noise_of_loss is None


def test_a_repeat_that_kept_less_hides_no_early_noise(trainings):
    """The repeat's loss parts in step 2; what it did not keep of step 1 may have parted before B did."""
    a = trainings.put()
    trainings.put(fault=planted("gradients", 1, lambda g: g * 2), repeat=1, capture="final")
    b = trainings.put("2.8.0", planted("gradients", 1, one_ulp()))

    assert with_repeats(a, b).above_noise is False
