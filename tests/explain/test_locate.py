"""Where a difference starts: the graph of artifacts, which calls are origins, and how it is drawn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.artifacts.graph import Change, Place, origins, trace
from harness.artifacts.index_job import INDEX
from harness.explain.difference import Difference
from harness.explain.locate import Location, StepFinding
from harness.explain.replay import judge
from harness.report.location_text import answer, sentences, summary, tree
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor

NAMES = ("batches", "D", "local_sample_embs", "sample", "sample_heldout", "centroids_raw", "centroids_normalized",
         "centroids", "bucket_cutoffs", "embs_0", "embs_1", "0.codes", "1.codes", "0.residuals", "codes",
         "values", "ivf_unoptimized", "doclens", "ivf")  # fmt: skip


def _changes(changed: set[str], **options: Any) -> dict[str, Change]:
    a = dict.fromkeys(NAMES, "same")
    return {place.name: place.change for place in trace(a, a | dict.fromkeys(changed, "other"), **options)}


def test_an_artifact_that_differs_while_its_inputs_are_equal_is_an_origin_and_what_follows_inherits() -> None:
    found = _changes({"centroids_normalized", "centroids", "0.residuals"})

    assert found["centroids_normalized"] is Change.ORIGIN
    assert found["centroids"] is Change.INHERITED
    assert found["0.residuals"] is Change.INHERITED
    assert found["codes"] is Change.EQUAL


def test_two_independent_differences_are_two_origins() -> None:
    a = dict.fromkeys(NAMES, "same")
    found = origins(trace(a, a | {"centroids_raw": "other", "ivf_unoptimized": "other", "ivf": "other"}))

    assert found == {"k-means": ("centroids_raw",), "sort codes": ("ivf_unoptimized",)}


def test_what_a_repeat_changes_is_noise_and_no_origin() -> None:
    assert _changes({"batches"}, noise={"batches"})["batches"] is Change.NOISE


def test_an_artifact_on_one_side_only_differs() -> None:
    (place,) = trace({}, {"centroids": "some"})

    assert place.change is Change.ORIGIN


def test_an_input_that_was_not_captured_is_replaced_by_its_own_inputs() -> None:
    assert INDEX.inputs_of("centroids_raw", ["D", "centroids_raw"]) == ("D",)


def test_a_chunk_is_computed_from_its_own_chunk_and_the_codes_from_all() -> None:
    assert INDEX.inputs_of("1.codes", NAMES) == ("centroids", "embs_1")
    assert INDEX.inputs_of("codes", NAMES) == ("0.codes", "1.codes")


def test_the_tree_marks_origins_in_plain_text_when_not_on_a_terminal() -> None:
    console = Console(width=120, record=True, force_terminal=False, file=io.StringIO())
    console.print(tree(trace({"sample": "x", "centroids_raw": "1"}, {"sample": "x", "centroids_raw": "2"}), {}))
    shown = console.export_text()

    assert "centroids_raw ORIGIN" in shown
    assert "sample =" in shown
    assert "\x1b" not in shown


def _reference(folder: Path, name: str, value: float) -> dict[str, Any]:
    (folder / "tensors").mkdir(exist_ok=True)
    write_safetensors(folder / "tensors" / f"{name}.safetensors", {"tensor": Tensor.of(np.array([value], np.float32))})
    return {"tensor": name, "dtype": "float32", "shape": [1], "stride": [1], "offset": 0, "device": "cpu"}


def _call(kind: str, name: str, result: dict[str, Any], inner: int = 0) -> dict[str, Any]:
    return {"kind": kind, "module": "", "name": name, "number": 0, "args": {"tuple": []}, "kwargs": {"dict": []},
            "result": result, "inner": inner}  # fmt: skip


@pytest.fixture
def recording(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A module with an operator inside that differs in B, and a second operator that only gets its result."""
    a, b, again = (tmp_path / name for name in ("a", "b", "again"))
    for folder in (a, b, again):
        folder.mkdir()
    one, two = _reference(a, "one", 1.0), _reference(a, "two", 2.0)
    other = _reference(b, "other", 1.5)
    calls = [_call("module", "dense", one, 1), _call("operator", "aten.mm", one), _call("operator", "aten.add", two)]
    free = [_call("module", "dense", other, 1), _call("operator", "aten.mm", other)]
    free += [_call("operator", "aten.add", other), _call("operator", "aten.extra", other)]
    different = {"status": "different", "result": other}
    (a / "calls.json").write_text(json.dumps(calls))
    (b / "calls.json").write_text(json.dumps(free))
    (b / "replay.json").write_text(json.dumps([different, different, {"status": "equal"}]))
    (again / "replay.json").write_text(json.dumps([{"status": "equal"}] * 3))
    return a, b, again


def test_the_innermost_call_that_differs_with_its_exact_input_is_the_origin(
    recording: tuple[Path, Path, Path],
) -> None:
    found = {verdict.name: verdict for verdict in judge(*recording)}

    assert found["aten.mm"].status == "origin"
    assert found["dense"].status == "contains_origin"
    assert found["aten.add"].status == "propagates"
    assert found["aten.extra"].status == "missing_a"
    assert summary(found.values()) == [
        "operator aten.mm, 1 of 1 calls, first in the step itself: 1 of 1 elements, at most 0.5 (4,194,304 ULP)"
    ]


@pytest.mark.parametrize(("gates", "said"), [({"g": True}, "encode (aten.mm)"), ({"g": False}, "encode")])
def test_the_answer_names_the_step_and_only_operators_that_a_trusted_replay_found(
    recording: tuple[Path, Path, Path], gates: dict[str, bool], said: str
) -> None:
    place = Place("D", "encode", (), Change.ORIGIN)
    finding = StepFinding("encode", ("D",), "ok", verdicts=tuple(judge(*recording)), gates=gates)

    assert answer(Location("2.7.1", "2.8.0", 1, (place,), {}, (finding,))) == f"Starts in: {said}."
    equal = Location("2.7.1", "2.8.0", 1, (replace(place, change=Change.EQUAL),), {})
    assert answer(equal).startswith("Starts in: nothing; 2.7.1 and 2.8.0 do not differ")


def test_a_call_that_runs_on_the_cpu_of_a_job_with_a_gpu_is_said_to(recording: tuple[Path, Path, Path]) -> None:
    found = judge(*recording)

    assert {verdict.device for verdict in found if verdict.status != "missing_a"} == {"cpu"}
    assert summary(found, gpu=True)[0].startswith("operator aten.mm on the CPU, 1 of 1 calls, ")
    calls = json.loads((recording[0] / "calls.json").read_text())
    for call in calls:
        call["result"] = {**call["result"], "device": "cuda"}
    (recording[0] / "calls.json").write_text(json.dumps(calls))
    assert summary(judge(*recording), gpu=True)[0].startswith("operator aten.mm, 1 of 1 calls, ")


def test_a_call_that_cannot_even_be_repeated_in_a_is_no_origin(recording: tuple[Path, Path, Path]) -> None:
    a, b, again = recording
    (again / "replay.json").write_text(
        json.dumps([{"status": "different", "result": None}] * 2 + [{"status": "equal"}])
    )

    assert [v.status for v in judge(a, b, again)][:2] == ["unstable", "unstable"]


def test_a_call_that_cannot_be_made_again_in_a_says_nothing_of_b_and_spoils_no_other(
    recording: tuple[Path, Path, Path],
) -> None:
    a, b, again = recording
    refused = {"status": "refused", "reason": "ValueError: an argument of type ScriptObject was not recorded"}
    (again / "replay.json").write_text(json.dumps([{"status": "equal"}, {"status": "equal"}, refused]))
    (b / "replay.json").write_text(json.dumps([{"status": "equal"}] * 2 + [{"status": "different", "result": None}]))
    rows = {verdict.name: (verdict.status, verdict.reason) for verdict in judge(a, b, again)}

    assert rows["aten.add"] == ("refused", refused["reason"])
    assert {status for status, _ in rows.values()}.isdisjoint({"unstable", "origin"})


def test_a_call_that_b_lacks_or_refuses_or_never_makes_is_a_row_with_its_reason(
    recording: tuple[Path, Path, Path],
) -> None:
    a, b, again = recording
    absent = {"status": "absent", "reason": "aten.mm does not exist in torch 2.8.0"}
    refused = {"status": "refused", "reason": "RuntimeError: not implemented for 'Half'"}
    (b / "replay.json").write_text(json.dumps([{"status": "equal"}, absent, refused]))
    (b / "calls.json").write_text(json.dumps([]))
    rows = {verdict.name: (verdict.status, verdict.reason) for verdict in judge(a, b, again)}

    assert rows == {
        "dense": ("missing_b", ""),
        "aten.mm": ("absent", absent["reason"]),
        "aten.add": ("refused", refused["reason"]),
    }


def test_calls_are_aligned_by_module_and_number_and_not_by_their_order(recording: tuple[Path, Path, Path]) -> None:
    """B makes its calls in another order, and one of them twice: A's keep their places, and the second is B's own."""
    a, b, again = recording
    free = json.loads((b / "calls.json").read_text())
    second = {**free[1], "number": 1}
    (b / "calls.json").write_text(json.dumps([*free[::-1], second]))
    found = [(v.name, v.number, v.status) for v in judge(a, b, again)]

    assert found[:3] == [("dense", 0, "contains_origin"), ("aten.mm", 0, "origin"), ("aten.add", 0, "propagates")]
    assert ("aten.mm", 1, "missing_a") in found
    assert ("aten.extra", 0, "missing_a") in found


def test_a_step_of_which_the_rest_does_not_differ_says_what_could_not_be_run() -> None:
    """The shuffle of the sample, where loading a model drew fewer random numbers than it did before."""
    besides = INDEX.replays["split sample"].besides
    found = StepFinding("split sample", ("sample",), "ok", request={"besides": besides})

    def told(finding: StepFinding) -> str:
        same = dict.fromkeys(NAMES, "same")
        places = tuple(trace(same, same | {"sample": "other"}))
        differences = {"sample": Difference(None, None, None)}
        return "\n".join(sentences(Location("2.7.1", "2.8.0", 1, places, differences, (finding,))))

    assert "shuffle" in besides
    assert "split sample: no call differs when it gets A's exact input; 0 of 0 calls" in told(found)
    assert besides in told(found)
    assert besides not in told(replace(found, inherited=True))
