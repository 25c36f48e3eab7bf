"""Training goes in steps: which one differs first, what a repeat excuses, and what a replay of it shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.graph import Change, Place, origins
from harness.artifacts.train_job import TRAIN
from harness.errors import UsageError
from harness.explain.locate import look
from harness.explain.pair import Pair, Side
from harness.explain.places import places_of
from harness.explain.replay import CallVerdict, judge
from harness.explain.requests import requests_for
from harness.explain.stepwise import Steps, after, beginnings, parting
from harness.explain.swap import Swapped, check_names, differences, steps_named
from harness.home import Home
from harness.report.location_text import answer, one_sided, sentences, summary
from harness.report.swap_text import sentence
from harness.running.job import JobResult, Workbench
from harness.store.cell import Cell
from harness.store.repeats import noise_floor
from harness.store.store import Store
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import cell, spec

STEPS = 4
ROWS = ("batch", "random_before", "scores", "loss", "gradients", "clipped", "first_moments", "weights")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def trained(store: Store, version: str, repeat: int = 0, steps: int = STEPS, **first: int) -> Cell:
    """A training of which each artifact that is named differs from a step on; the model does where anything does."""
    values: dict[str, np.ndarray] = {name: np.zeros((STEPS, 3), np.float32) for name in ROWS}
    for name, step in first.items():
        values[name][step:] = 1
    values = {name: rows[:steps] for name, rows in values.items()}
    values["trained"] = np.full(5, bool(first), np.float32)
    known = {n: store.keep_tensor(Tensor.of(v), TRAIN.role(n) or "", stored=True) for n, v in values.items()}
    found = store.get(store.put(cell(replace(spec(version, repeat=repeat), job="train"), artifacts=known)).key)
    assert found is not None
    return found


def pair_of(store: Store, b: Cell, again: Cell | None = None, **more: Any) -> Pair:
    a = trained(store, "2.7.1")
    repeats = (again,) if again else ()
    side = [Side(one, lambda: pytest.fail("nothing is run")) for one in (a, b)]
    noise = noise_floor(a, repeats) or frozenset()
    bench = Workbench(Home(store.root), store.root)
    return Pair(side[0], side[1], noise, len(repeats), store, more.pop("bench", bench), again_a=repeats, **more)


def places(pair: Pair) -> tuple[Place, ...]:
    return places_of(pair, parting(pair))


def first_step(pair: Pair) -> int | None:
    found = parting(pair)
    assert found is not None
    return found.step


def test_the_first_step_that_differs_and_the_first_phase_in_it_are_where_it_starts(store: Store) -> None:
    b = trained(store, "2.8.0", loss=3, scores=3, gradients=2, clipped=2, first_moments=2, weights=2)
    location = look(pair_of(store, b))

    assert location.step == 2
    assert origins(location.places) == {"backward": ("gradients",)}
    assert (
        "the difference starts in step 2, backward (gradients); 6 more artifacts inherit it" in sentences(location)[0]
    )
    assert answer(location) == "Starts in: step 2, backward."


def test_what_differs_in_one_step_by_itself_is_two_origins(store: Store) -> None:
    found = pair_of(store, trained(store, "2.8.0", batch=1, random_before=1, loss=1))

    assert origins(places(found)) == {"batch": ("batch",), "random state": ("random_before",)}


def test_equal_trainings_begin_nowhere(store: Store) -> None:
    found = pair_of(store, trained(store, "2.8.0"))

    assert first_step(found) is None
    assert look(found).step is None
    assert not look(found).diverged


def test_a_training_that_ends_earlier_differs_from_the_step_on_that_it_lacks(store: Store) -> None:
    a, b = trained(store, "2.7.1"), trained(store, "2.8.0", steps=3)

    assert beginnings(store, a, b) == Steps(dict.fromkeys(ROWS, 3), {})


def test_noise_of_a_later_step_excuses_no_earlier_difference(store: Store) -> None:
    b = trained(store, "2.8.0", gradients=1, clipped=1, first_moments=1, weights=1, loss=2)
    late = trained(store, "2.7.1", 1, gradients=3, clipped=3, first_moments=3, weights=3)
    early = trained(store, "2.7.1", 2, gradients=1, clipped=1, first_moments=1, weights=1, loss=2)

    assert origins(places(pair_of(store, b, late))) == {"backward": ("gradients",)}
    excused = {place.name: place.change for place in places(pair_of(store, b, early))}
    assert excused["gradients"] is excused["weights"] is Change.NOISE
    assert first_step(pair_of(store, b, early)) is None


def damage(store: Store, of: Cell, name: str) -> None:
    store.object_path(of.artifacts[name].digest).write_bytes(b"none of it is left")


def test_of_what_cannot_be_read_no_step_is_claimed_and_it_is_not_called_equal(store: Store) -> None:
    b = trained(store, "2.8.0", scores=1, gradients=2)
    damage(store, b, "scores")
    location = look(pair_of(store, b))

    assert (location.step, origins(location.places)) == (2, {"backward": ("gradients",)})
    assert "scores" not in {place.name for place in location.places}
    assert any(line.startswith("scores differs, and nobody can tell whether") for line in sentences(location))


def test_only_what_cannot_be_read_is_a_difference_too(store: Store) -> None:
    b = trained(store, "2.8.0", weights=1)
    for name in ("weights", "trained"):
        damage(store, b, name)
    location = look(replace(pair_of(store, b), noise=frozenset(["trained"])))

    assert location.step is None
    assert location.diverged
    assert "the difference starts in what cannot be read" in sentences(location)[0]


class Runs(Workbench):
    """Leaves the state that a training is asked for, or does not."""

    asked: list[tuple[str, dict[str, Any]]]

    def run(self, spec: object, interpreter: object, job: str, request: dict[str, Any], out: Path) -> JobResult:  # noqa: ARG002
        self.asked.append((job, request))
        if request["state_at"] < STEPS - 1:
            (out / "state").mkdir(parents=True)
        return JobResult("ok", "", out, {})


def asking(store: Store, **first: int) -> Pair:
    bench = Runs(Home(store.root), store.root)
    object.__setattr__(bench, "asked", [])
    found = pair_of(
        store, trained(store, "2.8.0", **first), bench=bench, write=lambda _version, _folder: {"triples": "t"}
    )
    return replace(found, a=Side(found.a.cell, lambda: None))  # type: ignore[arg-type,return-value]


def test_all_phases_are_asked_for_together_from_a_s_state_before_the_step(store: Store, tmp_path: Path) -> None:
    pair = asking(store, gradients=2, clipped=2, weights=3)
    differing = origins(places(pair), inherited=True)
    (asked,), why = requests_for(pair, differing, tmp_path / "inputs", first_step(pair))

    assert pair.bench.asked == [("train", {"triples": "t", "capture": "final", "state_at": 2})]  # type: ignore[attr-defined]
    assert asked.request["phases"] == ["backward", "clip", "optimizer"]
    assert (asked.request["step"], asked.request["first"]) == ("training step", 2)
    # The step alone is held against all that the job recorded of it, whether or not B differs there.
    assert {phase: [*outputs] for phase, outputs in asked.outputs.items()} == {
        "backward": ["gradients"], "clip": ["clipped"], "optimizer": ["first_moments", "weights"],
    }  # fmt: skip
    assert why == {}


def test_the_forward_pass_is_looked_at_with_a_loss_that_differs_alone(store: Store, tmp_path: Path) -> None:
    """The loss of in-batch negatives is computed there, and is no artifact."""
    pair = asking(store, loss=0)
    (asked,), _why = requests_for(pair, {"loss": ("loss",)}, tmp_path / "alone", 0)
    both, _why = requests_for(pair, {"forward": ("scores",), "loss": ("loss",)}, tmp_path / "both", 0)
    calls = [CallVerdict("operator", "", "aten.mm", 0, "origin", phase=phase) for phase in ("forward", "loss")]

    assert asked.outputs == {"loss": {"scores": "scores", "loss": "loss"}}
    assert asked.among("loss", calls) == calls
    assert both[0].among("loss", calls) == calls[1:]
    assert both[0].among("forward", calls) == calls[:1]


def test_a_state_that_cannot_be_had_is_a_reason_and_no_traceback(store: Store, tmp_path: Path) -> None:
    pair = asking(store, gradients=STEPS - 1)
    differing = {"backward": ("gradients",), "batch": ("batch",)}
    asked, why = requests_for(pair, differing, tmp_path / "inputs", first_step(pair))

    assert asked == []
    assert why == {
        "backward": "2.7.1, trained again, did not come to step 3.",
        "batch": "The step 'batch' is not one that can be run by itself.",
    }


def test_only_steps_that_there_are_can_be_swapped() -> None:
    names = ["weights_2", "random_0", "first_moments_2"]
    check_names(names, lambda: 0, TRAIN, STEPS)

    assert steps_named(names, TRAIN) == [0, 2]
    with pytest.raises(UsageError, match=r"There is no 'weights_4': the training has 4 steps, numbered from 0\."):
        check_names(["weights_4"], lambda: 0, TRAIN, STEPS)
    with pytest.raises(UsageError, match=r"'loss' cannot be swapped; these can: random_<step>, gradients_<step>"):
        check_names(["loss"], lambda: 0, TRAIN, STEPS)


# ---- what a replay shows


def _tensor(folder: Path, value: float, dtype: str = "float32") -> dict[str, Any]:
    name = f"{dtype}-{value}"
    (folder / "tensors").mkdir(exist_ok=True, parents=True)
    held = Tensor.of(np.array([value], dtype))
    write_safetensors(folder / "tensors" / f"{name}.safetensors", {"tensor": held})
    return {"tensor": name, "dtype": dtype, "shape": [1], "stride": [1], "offset": 0, "device": "cpu"}


def _call(name: str, given: list[Any], result: object, inner: int = 0, **more: Any) -> dict[str, Any]:
    kind = "operator" if name.startswith("aten") else "function"
    return {"kind": kind, "module": "", "name": name, "number": 0, "phase": "optimizer", "node": "", "of": "",
            "args": {"tuple": given}, "kwargs": {"dict": []}, "result": result, "inner": inner, **more}  # fmt: skip


def _judged(root: Path, calls: list[Any], free: list[Any], replayed: list[Any]) -> list[CallVerdict]:
    for name, content in (("a/calls", calls), ("b/calls", free), ("b/replay", replayed)):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / f"{name}.json").write_text(json.dumps(content))
    (root / "again").mkdir()
    (root / "again" / "replay.json").write_text(json.dumps([{"status": "equal"}] * len(calls)))
    return judge(root / "a", root / "b", root / "again")


EQUAL = {"status": "equal"}


def test_a_call_that_is_told_something_else_beside_the_same_tensors_is_where_it_starts(tmp_path: Path) -> None:
    """No arithmetic differs: AdamW's eps is another one. The function around it only hands it on."""
    one, two, other = (_tensor(tmp_path / "a", value) for value in (1.0, 2.0, 3.0))

    def run(eps: float, made: dict[str, Any]) -> list[dict[str, Any]]:
        given = [one, {"float": eps.hex()}]
        return [_call("torch.Tensor.add_", given, made, 1), _call("aten.add_.Tensor", given, made),
                _call("aten.div.Tensor", [made], made)]  # fmt: skip

    found = _judged(tmp_path, run(1e-8, two), run(1e-7, other), [EQUAL] * 3)

    assert [verdict.status for verdict in found] == ["contains_origin", "arguments", "propagates"]
    assert summary(found) == [
        "operator aten.add_.Tensor, 1 of 1 calls, first in the step itself: argument 2 is 1e-08 in A, 1e-07 in B"
    ]


def test_the_same_tensors_laid_out_otherwise_are_told_too(tmp_path: Path) -> None:
    one, two, other = (_tensor(tmp_path / "a", value) for value in (1.0, 2.0, 3.0))
    (found,) = _judged(
        tmp_path, [_call("aten.mm", [one], two)], [_call("aten.mm", [{**one, "stride": [2]}], other)], [EQUAL]
    )

    assert (found.status, "strides [1]" in found.reason, "strides [2]" in found.reason) == ("arguments", True, True)


def test_other_results_of_other_tensors_only_pass_a_difference_on(tmp_path: Path) -> None:
    one, two, other = (_tensor(tmp_path / "a", value) for value in (1.0, 2.0, 3.0))
    (found,) = _judged(tmp_path, [_call("aten.mm", [one, 1], two)], [_call("aten.mm", [two, 2], other)], [EQUAL])

    assert found.status == "propagates"


@pytest.mark.parametrize(
    ("product", "mask", "after", "stream"),
    [(2.0, 1, 8.0, False), (2.0, 0, 8.0, True), (1.0, 1, 9.0, True)],
    ids=["arithmetic", "mask", "how much was drawn"],
)
def test_another_mask_is_the_random_stream_and_another_product_is_arithmetic(
    tmp_path: Path, product: float, mask: int, after: float, stream: bool
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    states = {"from": {"tuple": [_tensor(a, 7.0)]}, "to": {"tuple": [_tensor(a, 8.0)]}}
    dropout = _call("aten.native_dropout.default", [_tensor(a, 5.0)],
                    {"tuple": [_tensor(a, 1.0), _tensor(a, 1, "bool")]}, drawn=states)  # fmt: skip
    result = {"tuple": [_tensor(b, product), _tensor(b, mask, "bool")]}
    replayed = {"status": "different", "result": result, "drawn": {"tuple": [_tensor(b, after)]}}
    (found,) = _judged(tmp_path, [dropout], [dropout], [replayed])

    assert (found.status, found.stream, found.draws) == ("origin", stream, True)
    assert ("draws other random numbers from the same state" in summary([found])[0]) is stream


def test_a_call_that_draws_only_in_b_is_the_random_stream(tmp_path: Path) -> None:
    """Its result may be the same: what is drawn after it is not."""
    made, state = _tensor(tmp_path / "a", 1.0), _tensor(tmp_path / "b", 8.0)
    call = _call("aten.relu.default", [made], made)
    replayed = {"status": "different", "result": made, "drawn": {"tuple": [state]}}
    (found,) = _judged(tmp_path, [call], [call], [replayed])

    assert (found.status, found.stream) == ("origin", True)
    assert "draws other random numbers" in summary([found])[0]


def test_calls_of_one_name_in_two_phases_are_not_each_other(tmp_path: Path) -> None:
    one = _tensor(tmp_path / "a", 1.0)
    clip = _call("aten.mul", [one], one)
    found = _judged(tmp_path, [clip], [{**clip, "phase": "backward"}], [EQUAL])

    assert [(verdict.phase, verdict.status) for verdict in found] == [
        ("optimizer", "missing_b"),
        ("backward", "missing_a"),
    ]


def test_a_backward_operator_is_placed_by_its_node_and_what_made_that() -> None:
    layer = CallVerdict("operator", "bert.layer.0", "aten.mm", 0, "origin", node="AddmmBackward0", of="torch.linear")
    weight = replace(layer, node="AccumulateGrad", module="bert", of="bert.weight")

    assert layer.where == "aten.mm in AddmmBackward0 of torch.linear in bert.layer.0"
    assert weight.place == "AccumulateGrad of bert.weight"


def test_how_an_optimizer_runs_and_what_only_one_side_runs_is_said() -> None:
    def of(status: str, name: str, **more: Any) -> CallVerdict:
        return CallVerdict("operator", "", name, 0, status, phase="optimizer", **more)

    slow, fused = "aten.addcdiv_.default", "aten._fused_adamw_.default"
    calls = [of("missing_b", slow), of("missing_b", slow), of("missing_a", fused)]
    calls.append(of("missing_a", "aten.rand.default", draws=True))

    assert one_sided(calls) == (
        "only in A: aten.addcdiv_.default 2x; only in B: aten._fused_adamw_.default 1x, aten.rand.default, which draws "
        "random numbers, 1x; AdamW runs one parameter at a time in A, fused in B"
    )
    assert one_sided([of("equal", "aten.addcdiv_.default")]) == ""


def test_a_module_that_is_made_of_other_operators_says_of_which() -> None:
    def of(kind: str, module: str, name: str, status: str) -> CallVerdict:
        return CallVerdict(kind, module, name, 0, status)

    calls = [
        one
        for layer in ("bert.layer.0", "bert.layer.1")
        for one in (
            of("module", layer, f"{layer}.self", "origin"),
            of("operator", f"{layer}.self", "aten.clone.default", "missing_b"),
            of("operator", f"{layer}.self", "aten.bmm.default", "missing_b"),
            of("operator", f"{layer}.self", "aten.bmm.default", "missing_b"),
            of("operator", f"{layer}.self", "aten.flash_attention.default", "missing_a"),
        )
    ]
    outside = of("operator", "bert.layer.0.output", "aten.eq.Scalar", "missing_a")

    assert summary([*calls, outside]) == [
        (
            "module bert.layer.0.self (only in A: aten.bmm.default 2x, aten.clone.default 1x; only in B: "
            "aten.flash_attention.default 1x)"
        ),
        "module bert.layer.1.self (as above)",
    ]


def test_a_swap_says_whether_the_training_goes_on_as_the_other_one(store: Store) -> None:
    """What differs before the step whose weights were put in place is not held against them."""
    a = trained(store, "2.7.1")

    def swapped(cell: Cell, since: int) -> Swapped:
        return Swapped("2.8.0", "2.7.1", "2.7.1", (f"weights_{since - 1}",), cell, differences(store, cell, a),
                       since=since, later=beginnings(store, cell, a, since).began)  # fmt: skip

    again = swapped(trained(store, "2.8.0", gradients=1, scores=3, loss=3), 2)
    assert not again.resolved
    assert sentence(again).endswith("the training differs from that of 2.7.1 in step 2, first in backward (gradients).")
    healed = trained(store, "2.7.1", 3)
    assert swapped(healed, 2).resolved
    assert sentence(swapped(healed, 2)).endswith("everything from step 2 on is bit for bit that of 2.7.1.")


@pytest.mark.parametrize(("names", "first"), [(["random_3"], 3), (["weights_3", "random_1"], 4), (["gradients_0"], 1)])
def test_random_states_are_in_place_as_their_step_begins_and_weights_after_it(names: list[str], first: int) -> None:
    assert after(names, TRAIN) == first
