"""What two trainings' numbers mean, and where their difference starts: by step first, by the graph within a step."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.artifacts.graph import Change, trace
from harness.artifacts.kinds import KINDS
from harness.artifacts.train_meaning import TrainMeaning, parameters_of
from harness.tensors.tensor import Tensor

TRAIN = KINDS["train"]
NAMES = ("linear.weight", "bert.x", "bert.y")
LISTED = [{"name": name, "shape": [2], "offset": 2 * place} for place, name in enumerate(NAMES)]


@dataclass
class Side:
    """A training with one artifact."""

    artifact: str
    array: np.ndarray
    listed: Any = None
    name: str = "side"

    @property
    def cell(self) -> SimpleNamespace:
        return SimpleNamespace(details={"parameters": LISTED if self.listed is None else self.listed})

    def names(self) -> tuple[str, ...]:
        return (self.artifact,)

    def load(self, name: str) -> Tensor:  # noqa: ARG002 - part of the protocol
        return Tensor.of(self.array)

    def digest(self, name: str) -> str | None:  # noqa: ARG002 - part of the protocol
        return None

    def metadata(self) -> dict[str, Any]:
        return {}


def table(steps: int = 4) -> np.ndarray:
    return np.arange(steps * len(NAMES) * 2, dtype=np.int64).reshape(steps, len(NAMES), 2)


def facts(name: str, left: np.ndarray, right: np.ndarray, listed: Any = None) -> dict[str, Any]:
    a, b = Side(name, left, listed), Side(name, right, listed)
    return TrainMeaning(TRAIN, a, b).facts(name, a.load(name), b.load(name))


def test_a_table_of_digests_says_in_which_step_which_parameters_differ_first():
    other = table()
    other[2, :2, 0] += 1
    other[3] += 1

    found = facts("weights", table(), other)
    assert (found["steps_n"], found["steps_differ"], found["first_step"]) == (4, 2, 2)
    assert (found["parameters_n"], found["parameters_differ"]) == (3, 2)
    assert set(found["first_parameters"]) == {"linear.weight", "bert.x"}


def test_a_training_that_ends_earlier_differs_from_the_step_that_it_lacks():
    found = facts("loss", np.ones((4, 1), np.float32), np.ones((3, 1), np.float32))

    assert (found["steps_n"], found["steps_differ"], found["first_step"]) == (4, 1, 3)


def test_a_nan_is_a_nan_s_equal_and_minus_zero_is_not_zero():
    loss = np.array([[np.nan], [0.0]], np.float32)

    assert facts("loss", loss, loss.copy()) == {}
    assert facts("loss", loss, np.array([[np.nan], [-0.0]], np.float32))["first_step"] == 1


def test_random_states_are_told_by_their_streams():
    before = np.zeros((3, 4, 2), np.int64)
    after = before.copy()
    after[1, [0, 2]] = 1

    assert facts("random_before", before, after)["streams"] == ["python", "torch"]


def test_two_models_are_told_by_their_distance_and_the_parameter_that_is_farthest():
    left = np.array([3, 4, 1, 0, 10, 0], np.float32)
    right = np.array([3, 4, 1, 1, 10, 1], np.float32)

    found = facts("trained", left, right)
    assert 0 < found["relative_distance"] < found["largest_relative_distance"]
    assert found["largest_parameter"] == "bert.x"
    assert facts("gradients_7", left, right)["first_step"] == 7
    assert "first_step" not in found


@pytest.mark.parametrize(
    "listed",
    [
        "no list", [1], [{"name": "x"}], [{"name": 1, "shape": [1], "offset": 0}],
        [{"name": "x", "shape": [-1], "offset": 0}],
        [{"name": "x", "shape": "1", "offset": 0}], [{"name": "x", "shape": [1], "offset": True}],
    ],
)  # fmt: skip
def test_a_list_of_parameters_that_is_none_gives_no_names_and_breaks_nothing(listed):
    assert parameters_of(Side("gradients", table(), listed)) == []
    found = facts("gradients", table(), table() + 1, listed)
    assert all(name.startswith("parameter ") for name in found["first_parameters"])
    assert facts("trained", np.ones(3, np.float32), np.zeros(3, np.float32), listed).keys() == {"relative_distance"}


# ---- where it starts


def changes(began: dict[str, int], **options: Any) -> dict[str, Change]:
    names = [one.name for one in TRAIN.made if "*" not in one.name]
    left = dict.fromkeys(names, "1")
    places = trace(left, left | dict.fromkeys(began, "2"), began=began, kind=TRAIN, **options)
    return {place.name: place.change for place in places if place.change is not Change.EQUAL}


def test_what_begins_later_inherits_whatever_the_graph_of_a_step_says():
    found = changes({"scores": 3, "loss": 3, "gradients": 2, "clipped": 2, "weights": 2, "random_before": 5})

    assert {name for name, change in found.items() if change is Change.ORIGIN} == {"gradients"}


@pytest.mark.parametrize(
    ("began", "origin"),
    [
        (dict.fromkeys(("batch", "input_ids", "scores", "loss", "gradients", "clipped", "weights"), 0), "batch"),
        ({"random_before": 1, "scores": 1, "loss": 1, "gradients": 1}, "random_before"),
        ({"loss": 1, "gradients": 1, "scores": 2}, "loss"),
        ({"gradient_norm": 4, "clipped": 4, "weights": 4, "scores": 5}, "gradient_norm"),
        ({"skipped": 4, "first_moments": 4, "second_moments": 4, "weights": 4, "scores": 5}, "skipped"),
        ({"second_moments": 0, "weights": 0, "scores": 1}, "second_moments"),
        ({"weights": 0, "scores": 1, "learning_rate": 9}, "weights"),
        ({"learning_rate": 0, "weights": 0, "scores": 1}, "learning_rate"),
    ],
)
def test_within_the_first_step_the_graph_says_what_is_the_origin(began, origin):
    found = changes(began | {"trained": 99})

    assert [name for name, change in found.items() if change is Change.ORIGIN] == [origin]


def test_noise_of_an_early_step_does_not_hide_where_a_later_one_starts():
    found = changes({"loss": 0, "gradients": 2, "clipped": 2, "weights": 2}, noise=["loss"])

    assert found["loss"] is Change.NOISE
    assert found["weights"] is Change.INHERITED
