"""Where a difference starts, by experiment: the step of the pipeline, then the module, function and operator.

See docs/localisation.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.graph import Change, Place, origins, trace
from harness.artifacts.steps import bits
from harness.errors import UnreadableTensor
from harness.explain.difference import Difference, difference
from harness.explain.noise import Noise, noise_of
from harness.explain.pair import Pair, Side
from harness.explain.places import places_of
from harness.explain.replay import ORIGIN, UNSTABLE, CallVerdict, Runs, judge, run_steps
from harness.explain.requests import Asked, ragged_ends, requests_for, rows_of_spans
from harness.explain.stepwise import parting, row
from harness.store.store import Store
from harness.tensors.dtypes import Array
from harness.tensors.safetensors import read_safetensors


@dataclass(frozen=True)
class StepFinding:
    """What running one step by itself, in A and in B, showed.

    Attributes:
        step: the step of the pipeline.
        artifacts: the artifacts of it that differ.
        inherited: whether they differ only because, or also because, their inputs differed.
        outcome: `ok`, or why it could not be run by itself (then `reason` says more).
        reason: one sentence.
        verdicts: one per call; empty unless the outcome is `ok`.
        gates: name to whether it held; nothing is claimed unless all of them do.
        request: the job's request, for a repro.
        gpu: whether the jobs had a GPU.
    """

    step: str
    artifacts: tuple[str, ...]
    outcome: str
    reason: str = ""
    verdicts: tuple[CallVerdict, ...] = ()
    inherited: bool = False
    gates: dict[str, bool] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    gpu: bool = False

    @property
    def origins(self) -> list[CallVerdict]:
        """The calls that a difference starts in, and that hold no such call inside."""
        return [verdict for verdict in self.verdicts if verdict.starts]

    @property
    def trusted(self) -> bool:
        """Whether every gate held."""
        return all(self.gates.values())


@dataclass(frozen=True)
class Location:
    """Everything found about a pair.

    Attributes:
        a: label of A.
        b: label of B.
        repeats: how often A was run again for the noise floor.
        places: every artifact.
        differences: of every artifact that differs.
        findings: one per step of origin.
        noise: of each side that is not repeatable, where that comes from.
        not_captured: label of the side, artifact and reason, for each that could not be recorded; not in `places`.
        step: of a job that goes in steps, the first one that differs, from 0.
        unread: of such a job, artifact that differs, but nobody knows in which step, to the reason; not in `places`.
    """

    a: str
    b: str
    repeats: int
    places: tuple[Place, ...]
    differences: dict[str, Difference]
    findings: tuple[StepFinding, ...] = ()
    noise: tuple[Noise, ...] = ()
    not_captured: tuple[tuple[str, str, str], ...] = ()
    step: int | None = None
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def origins(self) -> list[tuple[str, CallVerdict]]:
        """Step and call of everything that differs with A's exact input, where every gate held."""
        return [(finding.step, verdict) for finding in self.findings if finding.trusted for verdict in finding.origins]

    @property
    def diverged(self) -> bool:
        """Whether anything differs beyond the noise floor."""
        changes = {place.change for place in self.places}
        return bool(self.unread) or not changes.isdisjoint({Change.ORIGIN, Change.INHERITED})


def look(pair: Pair) -> Location:
    """The first stage: origins in the graph of artifacts, without running anything."""
    parted = parting(pair)
    lost = [(side.cell.label, *why) for side in (pair.a, pair.b) for why in side.cell.not_captured.items()]
    places = places_of(pair, parted)
    differences = {
        place.name: difference(
            pair.store,
            pair.a.cell.artifacts.get(place.name),
            pair.b.cell.artifacts.get(place.name),
            pair.kind.known(place.name),
        )
        for place in places
        if place.change not in {Change.EQUAL, Change.SWAPPED}
    }
    return Location(
        pair.a.cell.label, pair.b.cell.label, pair.repeats, places, differences, not_captured=tuple(lost),
        step=parted.step if parted else None, unread=parted.unread if parted else {},
    )  # fmt: skip


def locate(
    pair: Pair,
    folder: Path,
    *,
    inherited: bool = True,
    report: Callable[[str], None] = lambda _text: None,
    on_recording: Callable[[StepFinding, Path, Path], None] = lambda _finding, _recording, _replayed: None,
) -> Location:
    """Both stages: the graph, then a replay of each step whose artifacts differ, with A's exact inputs.

    Steps that inherit a difference are replayed too, because one of them may add its own; over a large collection that
    takes long, since the last of them runs some operators for each centroid.

    Args:
        pair: what to explain.
        folder: scratch space for recordings (hundreds of MB for a batch of long passages); deleted after use.
        inherited: whether steps that inherit a difference are replayed as well.
        report: says what is under way.
        on_recording: called with each finding while its recording and B's results still exist.
    """
    found = look(pair)
    first = origins(found.places)
    differing = {s: names for s, names in origins(found.places, inherited=True).items() if inherited or s in first}
    asked, why = requests_for(pair, differing, folder / "inputs", found.step)
    findings = {step: StepFinding(step, differing[step], "unsupported", reason) for step, reason in why.items()}
    if asked:
        report(f"replaying {', '.join(step for one in asked for step in one.outputs)}")
    runs = run_steps(pair.bench, pair.a, pair.b, [one.request for one in asked], folder)
    for one, run in zip(asked, runs, strict=True):
        for step in one.outputs:
            findings[step] = _judge_step(pair, step, differing[step], one, run)
            if findings[step].outcome == "ok" and run.in_b is not None:
                on_recording(findings[step], run.recorded.out, run.in_b.out)
    noise = []
    shutil.rmtree(folder, ignore_errors=True)
    for side, again in ((pair.a, pair.again_a), (pair.b, pair.again_b)):
        noise.append(noise_of(pair, side, again, folder))
        shutil.rmtree(folder, ignore_errors=True)
    ordered = tuple(replace(findings[step], inherited=step not in first) for step in differing)
    return replace(found, findings=ordered, noise=tuple(filter(None, noise)))


def _judge_step(pair: Pair, step: str, artifacts: tuple[str, ...], asked: Asked, runs: Runs) -> StepFinding:
    """What the record of one step in A, its replay in A (which must change nothing) and its replay in B show."""
    for job, side, done in (
        ("record", pair.a, runs.recorded), ("replay", pair.a, runs.again), ("replay", pair.b, runs.in_b),
    ):  # fmt: skip
        if done is not None and not done.ok:
            return StepFinding(step, artifacts, done.outcome, f"{job} in {side.cell.label}: {done.reason}")
    assert runs.again is not None
    assert runs.in_b is not None
    request, outputs = asked.request, asked.outputs[step]
    verdicts = asked.among(step, judge(runs.recorded.out, runs.in_b.out, runs.again.out))
    if step in asked.parts:
        verdicts += _whole(pair, step, verdicts, runs)
    jobs = (runs.recorded, runs.again, runs.in_b)
    gates = {
        "hooks on = hooks off": all(bool(done.result["recorder_is_neutral"]) for done in jobs),
        "A's run = A's recording": runs.again.result["outputs"] == runs.recorded.result["outputs"],
        "A replayed in A": not any(verdict.status == UNSTABLE for verdict in verdicts),
    }
    if outputs:
        gates["the step alone = the job's artifact"] = _reproduced(
            pair.store, pair.a, outputs, runs.recorded.out, request
        )
    gates |= request.get("gates", {})
    gpu = pair.bench.device_kind != "cpu"
    return StepFinding(step, artifacts, "ok", "", tuple(verdicts), gates=gates, request=request, gpu=gpu)


def _whole(pair: Pair, step: str, verdicts: Sequence[CallVerdict], runs: Runs) -> list[CallVerdict]:
    """A phase as a call of its own: what B makes of it, from A's state, where the phases before it make no difference.

    It is an origin where it differs and no call in it does: what is between the calls is code, too.
    """
    assert runs.in_b is not None
    digests = (runs.recorded.result["outputs"], runs.in_b.result["outputs"])
    if step not in origins(trace(*digests, kind=pair.kind)) or any(verdict.starts for verdict in verdicts):
        return []
    return [CallVerdict("step", "", step, 0, ORIGIN, phase=step)]


def _reproduced(store: Store, a: Side, outputs: dict[str, str], folder: Path, request: dict[str, Any]) -> bool:
    for artifact, output in outputs.items():
        if artifact not in a.cell.artifacts:
            continue
        try:
            wanted = store.load(a.cell.artifacts[artifact]).data
            got = _output(folder, output)
            if "spans" in request:
                # What is stored of a batch is its passages' tokens, without padding and what the skip list names.
                wanted = rows_of_spans(wanted, request["spans"])
                got = got[_output(folder, "mask").reshape(got.shape[:-1]).astype(bool)]
            elif "first" in request:
                wanted = row(wanted, request)
            elif request.get("rows"):
                bounds, ends = next(iter(request["rows"].values())), ragged_ends(store, a.cell, artifact)
                if ends is not None:
                    bounds = [int(ends[bound - 1]) if bound else 0 for bound in bounds]
                wanted = wanted[slice(*bounds)]
        except UnreadableTensor:
            return False
        known = a.cell.job_kind.known(artifact)
        if known is not None and known.rounded and wanted.dtype == np.float16:
            got = got.astype(np.float16)
        if wanted.shape != got.shape or wanted.dtype != got.dtype or not np.array_equal(bits(wanted), bits(got)):
            return False
    return True


def _output(folder: Path, name: str) -> Array:
    return read_safetensors(folder / "outputs" / f"{name}.safetensors")["tensor"].data
