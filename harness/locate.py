"""Where a difference starts, by experiment: the step of the pipeline, then the module, function and operator.

First the graph: artifacts that differ although all that they were computed from is equal. Then, for the step that made
such an artifact, A's calls are recorded and fed one by one into B; see docs/localisation.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from harness.graph import Change, Place, main_input, origins, pattern, trace
from harness.metrics import Metrics, measure
from harness.noise import Noise, noise_of
from harness.pair import Pair, Side
from harness.repeats import unrecorded
from harness.replay import (
    MISSING_A,
    MISSING_B,
    ORIGIN,
    UNSTABLE,
    Runs,
    Verdict,
    amount,
    counts,
    judge,
    run_steps,
    summary,
)
from harness.store import Store
from harness.tensors import Array, UnreadableTensor, read_safetensors
from harness.words import count

_STEP_INPUTS: dict[str, dict[str, str]] = {
    "encode": {"input_ids": "tensorize_output.input_ids", "attention_mask": "tensorize_output.attention_mask"},
    "halve sample": {"local_sample_embs": "local_sample_embs"},
    "k-means": {"sample": "sample"},
    "normalize centroids": {"centroids_raw": "centroids_raw"},
    "halve centroids": {"centroids_normalized": "centroids_normalized"},
    "buckets": {"centroids_normalized": "centroids_normalized", "sample_heldout": "sample_heldout"},
    "compress": {
        "embs": "embs_*",
        "centroids": "centroids",
        "avg_residual": "avg_residual",
        "bucket_cutoffs": "bucket_cutoffs",
        "bucket_weights": "bucket_weights",
    },
    "sort codes": {"codes": "codes"},
    "optimize ivf": {"ivf_unoptimized": "ivf_unoptimized", "values": "values", "doclens": "doclens"},
}
"""Steps that can be run by themselves: the step's name for an input, and the artifact that it is."""

_RUN_AS = {"split sample": "halve sample"}
"""Splitting shuffles with the indexer's own random state; what can be run by itself is the rounding before it."""


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
    verdicts: tuple[Verdict, ...] = ()
    inherited: bool = False
    gates: dict[str, bool] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    gpu: bool = False

    @property
    def origins(self) -> list[Verdict]:
        """The calls that differ with A's exact input and hold no such call inside."""
        return [verdict for verdict in self.verdicts if verdict.status == ORIGIN]

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
        differences: artifact to its difference, where both sides are kept and can be compared.
        findings: one per step of origin.
        noise: of each side that is not repeatable, where that comes from.
        not_captured: a sentence for each artifact that a side could not record, and that is left out of `places`.
    """

    a: str
    b: str
    repeats: int
    places: tuple[Place, ...]
    differences: dict[str, str]
    findings: tuple[StepFinding, ...] = ()
    noise: tuple[Noise, ...] = ()
    not_captured: tuple[str, ...] = ()

    @property
    def origins(self) -> list[tuple[str, Verdict]]:
        """Step and call of everything that differs with A's exact input, where every gate held."""
        return [(finding.step, verdict) for finding in self.findings if finding.trusted for verdict in finding.origins]

    @property
    def diverged(self) -> bool:
        """Whether anything differs beyond the noise floor."""
        return any(place.change in {Change.ORIGIN, Change.INHERITED} for place in self.places)


def look(pair: Pair) -> Location:
    """The first stage: origins in the graph of artifacts, without running anything."""
    lost = [(side.cell.label, *why) for side in (pair.a, pair.b) for why in side.cell.not_captured.items()]
    unknown = unrecorded(pair.a.cell, pair.b.cell)
    places = trace(pair.a.digests(), pair.b.digests(), noise=pair.noise, unknown=unknown)
    differences = {
        place.name: _difference(pair, place.name)
        for place in places
        if place.change not in {Change.EQUAL, Change.SWAPPED}
    }
    said = tuple(f"{label} has no {name}, which could not be recorded: {why}" for label, name, why in lost)
    return Location(pair.a.cell.label, pair.b.cell.label, pair.repeats, places, differences, not_captured=said)


def _difference(pair: Pair, name: str) -> str:
    a, b = pair.a.cell.artifacts.get(name), pair.b.cell.artifacts.get(name)
    if a is None or b is None:
        return f"only in {'B' if a is None else 'A'}"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} against {list(b.shape)}"
    if a.dtype != b.dtype:
        return f"{a.dtype} against {b.dtype}"
    try:
        return amount(measure(pair.store.load(a), pair.store.load(b))).removeprefix(": ")
    except UnreadableTensor:
        return "differs; only digests were kept"


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
    differing = {s: names for s, names in _differing_steps(found.places).items() if inherited or s in first}
    findings: dict[str, StepFinding] = {}
    requests: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for step, artifacts in differing.items():
        try:
            requests[step] = step_request(pair, step, artifacts, folder / "batch")
        except LookupError as error:
            findings[step] = StepFinding(step, artifacts, "unsupported", str(error))
    if requests:
        report(f"replaying {', '.join(requests)}")
    runs = run_steps(pair.bench, pair.a, pair.b, [request for request, _outputs in requests.values()], folder)
    for (step, (request, outputs)), run in zip(requests.items(), runs, strict=True):
        findings[step] = judge_step(pair, step, differing[step], request, outputs, run)
        if findings[step].outcome == "ok" and run.in_b is not None:
            on_recording(findings[step], run.recorded.out, run.in_b.out)
    noise = []
    for side, again in ((pair.a, pair.again_a), (pair.b, pair.again_b)):
        shutil.rmtree(folder, ignore_errors=True)
        one = noise_of(pair, side, again, folder)
        noise += [one] if one else []
    shutil.rmtree(folder, ignore_errors=True)
    ordered = tuple(replace(findings[step], inherited=step not in first) for step in differing)
    return replace(found, findings=ordered, noise=tuple(noise))


def _differing_steps(places: Sequence[Place]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for place in places:
        if place.change in {Change.ORIGIN, Change.INHERITED}:
            found.setdefault(place.step, []).append(place.name)
    return {step: tuple(names) for step, names in found.items()}


def judge_step(
    pair: Pair, step: str, artifacts: tuple[str, ...], request: dict[str, Any], outputs: dict[str, str], runs: Runs
) -> StepFinding:
    """What the record of one step in A, its replay in A (which must change nothing) and its replay in B show.

    Args:
        pair: A and B.
        step: of the pipeline.
        artifacts: those of the step that differ.
        request: of the jobs.
        outputs: artifact to the step's output that must be equal to it in A.
        runs: the three jobs.
    """
    for job, side, done in (
        ("record", pair.a, runs.recorded), ("replay", pair.a, runs.again), ("replay", pair.b, runs.in_b),
    ):  # fmt: skip
        if done is not None and not done.ok:
            return StepFinding(step, artifacts, done.outcome, f"{job} in {side.cell.label}: {done.reason}")
    assert runs.again is not None
    assert runs.in_b is not None
    verdicts = judge(runs.recorded.out, runs.in_b.out, runs.again.out)
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


def step_request(
    pair: Pair, step: str, artifacts: Sequence[str], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a `record` job needs to run one step with A's artifacts.

    Args:
        pair: A and B.
        step: of the pipeline.
        artifacts: those of the step that differ.
        folder: for inputs that the job did not keep and that are made again; must last as long as the request is used.

    Returns:
        The request, and the step's outputs by the artifact that each must be equal to in A. Beside what the job reads
        the request has `where` (which part of the artifacts it is, in words), `spans` (the rows of a batch's passages)
        and `gates`.

    Raises:
        LookupError: the step cannot be run by itself, or an artifact that it needs was not kept; one sentence.
    """
    a = pair.a
    run_as = _RUN_AS.get(step, step)
    if run_as not in _STEP_INPUTS:
        raise LookupError(f"The step {step!r} runs no torch operator that could be replayed by itself.")
    chunk = next((chunk for _generic, chunk in map(pattern, artifacts) if chunk is not None), "0")
    request: dict[str, Any] = {"step": run_as}
    for known, size in (("centroids_raw", 0), ("ivf_lengths", 0), ("centroids", 0)):
        if known in a.cell.artifacts:
            request["settings"] = {"partitions": a.cell.artifacts[known].shape[size]}
            break
    if run_as == "encode":
        return _encode_request(pair, artifacts, request, folder)
    request["inputs"] = _inputs(pair, step, {n: g.replace("*", chunk) for n, g in _STEP_INPUTS[run_as].items()})
    outputs = {name: name for name in artifacts}
    if run_as == "compress":
        outputs = {f"{chunk}.{what}": f"chunk.{what}" for what in ("codes", "residuals")}
        request |= _compress_rows(pair, [*outputs], f"embs_{chunk}", request["settings"]["partitions"])
    elif run_as == "halve sample":
        outputs = {}
    return request, outputs


def _inputs(pair: Pair, step: str, names: dict[str, str]) -> dict[str, str]:
    """A step's name for an input to the file of the artifact that it is."""
    found = {}
    for name, wanted in names.items():
        artifact = pair.a.cell.artifacts.get(wanted)
        if artifact is None or not artifact.stored:
            raise LookupError(f"The step {step!r} needs {wanted}, which was not kept: index with --capture full.")
        found[name] = str(pair.store.object_path(artifact.digest))
    return found


def _encode_request(
    pair: Pair, artifacts: Sequence[str], request: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """The first batch that differs: of the first outer batch, whose token ids were kept, or of a later one."""
    from harness.batches import find_batch

    first = _first_differing(pair, "batches")
    if first is None:
        try:
            batch = find_batch(pair, artifacts, folder)
        except LookupError:
            if "batches" not in pair.a.cell.artifacts:
                raise
        else:
            more = {
                "inputs": batch.inputs,
                "rows": {name: list(batch.rows) for name in batch.inputs},
                "spans": batch.spans,
                "where": batch.said,
                "gates": {"A and B make the same batch": batch.same_in_b},
            }
            return {**request, **more}, {batch.artifact: "batches"}
    request["inputs"] = _inputs(pair, "encode", _STEP_INPUTS["encode"])
    size = int(pair.a.cell.spec["settings"]["index_bsize"])
    start = (first or 0) // size * size
    total = pair.a.cell.artifacts["tensorize_output.input_ids"].shape[0]
    request["rows"] = {name: [start, min(start + size, total)] for name in request["inputs"]}
    return request, {"batches": "batches"} if "batches" in pair.a.cell.artifacts else {}


def _first_differing(pair: Pair, *names: str) -> int | None:
    """The first row in which the two sides' artifacts differ; None if none does or they were not kept."""
    from harness.batches import first_row

    found = []
    for name in names:
        try:
            x, y = (pair.store.load(side.cell.artifacts[name]).data for side in (pair.a, pair.b))
        except (KeyError, UnreadableTensor):
            continue
        found.append(first_row(x, y))
    return min((row for row in found if row is not None), default=None)


_COMPRESS_BLOCK, _COMPRESS_ELEMENTS = 1 << 18, 1 << 29
"""colbert-ai's `compress` cuts its rows into blocks, and each block so that scores against all centroids fit memory."""


def _compress_rows(pair: Pair, outputs: list[str], embeddings: str, partitions: int) -> dict[str, Any]:
    """The rows that colbert-ai scores in one go, around the first that differs: a whole chunk's scores are many GB."""
    total = pair.a.cell.artifacts[embeddings].shape[0]
    first = _first_differing(pair, *outputs) or 0
    block = first // _COMPRESS_BLOCK * _COMPRESS_BLOCK
    at_once = max(1, _COMPRESS_ELEMENTS // partitions)
    start = block + (first - block) // at_once * at_once
    stop = min(start + at_once, block + _COMPRESS_BLOCK, total)
    if stop - start == total:
        return {}
    return {"rows": {"embs": [start, stop]}, "where": f"rows {start:,} to {stop:,} of {embeddings}"}


def _reproduced(store: Store, a: Side, outputs: dict[str, str], folder: Path, request: dict[str, Any]) -> bool:
    from harness.batches import rows_of_spans

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
            elif request.get("rows"):
                wanted = wanted[slice(*next(iter(request["rows"].values())))]
        except UnreadableTensor:
            return False
        if pattern(artifact)[0] == "embs_*" and wanted.dtype == np.float16:
            # On a CPU colbert-ai rounds what it has encoded before it keeps it.
            got = got.astype(np.float16)
        if wanted.shape != got.shape or not np.array_equal(wanted, got):
            return False
    return True


def _output(folder: Path, name: str) -> Array:
    return read_safetensors(folder / "outputs" / f"{name}.safetensors")["tensor"].data


# ---- words --------------------------------------------------------------------------------------------------------

_MARK = {
    Change.EQUAL: ("=", "green"),
    Change.ORIGIN: ("ORIGIN", "bold red"),
    Change.INHERITED: ("inherited", "yellow"),
    Change.NOISE: ("noise", "magenta"),
    Change.SWAPPED: ("swapped in", "cyan"),
}


def tree(places: Sequence[Place], differences: dict[str, str]) -> Tree:
    """The pipeline as a tree: each artifact below the input that its difference would come from."""
    inside = {place.name for place in places}
    root = Tree("collection, checkpoint, settings")
    nodes: dict[str | None, Tree] = {None: root}
    for place in places:
        parent = main_input(place, inside)
        word, style = _MARK[place.change]
        line = Text.assemble((f"{place.name} ", ""), (word, style))
        if place.change is not Change.EQUAL and differences.get(place.name):
            line.append(f"  {differences[place.name]}", "dim")
        if place.change is Change.ORIGIN:
            line.append(f"  (step: {place.step})", "bold")
        nodes[place.name] = nodes.get(parent, root).add(line)
    return root


def sentences(location: Location) -> list[str]:
    """What was found, in plain words."""
    sides = location.a if location.a.split("#")[0] == location.b.split("#")[0] else "each"
    floor = (
        f"{sides} was run {count(location.repeats, 'more time')} for the noise floor"
        if location.repeats
        else "the noise floor was not measured"
    )
    noisy = [place.name for place in location.places if place.change is Change.NOISE]
    lines = []
    if not location.diverged:
        equal = sum(place.change is Change.EQUAL for place in location.places)
        lines.append(
            f"{location.a} and {location.b}: nothing differs beyond the noise floor ({equal} of {len(location.places)} "
            f"artifacts are bit for bit equal; {floor})."
        )
    else:
        inherited = sum(place.change is Change.INHERITED for place in location.places)
        starts = "; ".join(f"{step} ({', '.join(names)})" for step, names in origins(location.places).items())
        lines.append(
            f"{location.a} -> {location.b}: the difference starts in {starts or 'nothing but noise'}; "
            f"{count(inherited, 'more artifact')} inherit{'s' if inherited == 1 else ''} it ({floor})."
        )
    lines += location.not_captured
    if noisy:
        lines.append(f"Noise, of which nothing follows: {', '.join(noisy)}.")
    lines += [noise.sentence for noise in location.noise]
    for finding in location.findings:
        lines += _finding(finding)
    return lines


def _finding(finding: StepFinding) -> list[str]:
    head = f"{finding.step}: "
    if finding.outcome != "ok" and finding.inherited:
        return []
    if finding.outcome != "ok":
        return [f"{head}not replayed ({finding.outcome}): {finding.reason}"]
    failed = [name for name, held in finding.gates.items() if not held]
    if failed:
        return [f"{head}nothing is claimed, because a gate failed: {'; '.join(failed)}."]
    found = counts(finding.verdicts)
    total = sum(number for status, number in found.items() if status != MISSING_A)
    lines = summary(finding.verdicts, gpu=finding.gpu)
    rest = f"{found.get('propagates', 0)} of {total} calls only pass a difference on"
    structure = found.get(MISSING_A, 0) + found.get(MISSING_B, 0)
    if structure:
        rest += f", {count(structure, 'call')} on one side only"
    if not lines and finding.inherited:
        return [f"{head}gives the same with A's exact input: it only inherits."]
    if not lines:
        return [f"{head}no call differs when it gets A's exact input; {rest}."]
    if finding.inherited:
        head = f"{finding.step} (a difference of its own, besides what it inherits): "
    where = [f"{head}looked at {finding.request['where']}."] if "where" in finding.request else []
    return [*where, *(f"{head}{line}." for line in lines), f"{head}{rest}."]


def show(location: Location, console: Console) -> None:
    """Print the tree and the sentences."""
    console.print(tree(location.places, location.differences))
    console.print()
    for line in sentences(location):
        console.print(escape(line), highlight=False, soft_wrap=True)


COLUMNS = (
    "a", "b", "step", "artifacts", "kind", "module", "name", "number", "device", "status", "reason", "n", "n_mismatch",
    "max_abs", "max_ulp", "trusted",
)  # fmt: skip


def rows(location: Location) -> list[dict[str, Any]]:
    """One row per call of each replayed step, for `locations.parquet`."""
    found = []
    for finding in location.findings:
        for verdict in finding.verdicts:
            metrics: Metrics | None = verdict.metrics
            found.append(
                {
                    "a": location.a,
                    "b": location.b,
                    "step": finding.step,
                    "artifacts": ",".join(finding.artifacts),
                    "kind": verdict.kind,
                    "module": verdict.module,
                    "name": verdict.name,
                    "number": verdict.number,
                    "device": verdict.device,
                    "status": verdict.status,
                    "reason": verdict.reason,
                    "n": metrics.n if metrics else None,
                    "n_mismatch": metrics.n_mismatch if metrics else None,
                    "max_abs": metrics.max_abs if metrics else None,
                    "max_ulp": metrics.max_ulp if metrics else None,
                    "trusted": finding.trusted,
                }
            )
    return found
