"""What a step needs to be run alone, taken from what the two cells kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.kind import Batches, Blocks, Replay
from harness.errors import InfrastructureError, UnreadableTensor
from harness.explain.pair import Pair
from harness.explain.replay import CallVerdict
from harness.explain.stepwise import state_before
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.dtypes import Array
from harness.tensors.safetensors import read_safetensors
from harness.tensors.tensor import Tensor

_ORDER = "reverse_indices"
"""What the tokenizer says beside a step's inputs: where each passage, in the order of the texts, is in the batch."""


@dataclass(frozen=True)
class Asked:
    """What a `record` job is asked for.

    Attributes:
        request: beside what the job reads it may have `where` (which part of the artifacts it is, in words), `spans`
            (the rows of a batch's passages), `first` (the row that the job makes) and `gates`.
        outputs: step of the pipeline to its outputs by the artifact that each must be equal to in A.
        parts: step of the pipeline to the phases of the request's step that it is; empty where it is all of that.
    """

    request: dict[str, Any]
    outputs: dict[str, dict[str, str]]
    parts: dict[str, list[str]] = field(default_factory=dict)

    def among(self, step: str, verdicts: Sequence[CallVerdict]) -> list[CallVerdict]:
        """Those of the calls' verdicts that are of a step."""
        of = self.parts.get(step)
        return [verdict for verdict in verdicts if of is None or verdict.phase in of]


def requests_for(
    pair: Pair, differing: Mapping[str, Sequence[str]], folder: Path, first: int | None
) -> tuple[list[Asked], dict[str, str]]:
    """What is asked of A to run some steps with A's artifacts.

    Args:
        pair: A and B.
        differing: step to those of its artifacts that differ.
        folder: for inputs that the job did not keep and that are made again; must last as long as the requests.
        first: of a job that goes in steps, the first one that differs; None where that is not known.

    Returns:
        The requests, and why other steps cannot be run, step to sentence.
    """
    if pair.kind.stepwise:
        return _stepwise(pair, differing, folder, first)
    asked, why = [], {}
    for step, artifacts in differing.items():
        try:
            request, outputs = step_request(pair, step, artifacts, folder)
        except LookupError as error:
            why[step] = str(error)
        else:
            asked.append(Asked(request, {step: outputs}))
    return asked, why


def _stepwise(
    pair: Pair, differing: Mapping[str, Sequence[str]], folder: Path, first: int | None
) -> tuple[list[Asked], dict[str, str]]:
    """One request for all phases of the first step that differs."""
    replays = pair.kind.replays
    why = {step: _not_alone(step) for step in differing if step not in replays}
    phases = [step for step in differing if step in replays]
    if first is None or not phases:
        return [], {**dict.fromkeys(phases, "In which step it begins is not known."), **why}
    try:
        given = state_before(pair, first, folder)
    except LookupError as error:
        return [], {**dict.fromkeys(phases, str(error)), **why}
    parts = {phase: [*filter(None, (replays[phase].after,)), phase] for phase in phases}
    parts = {phase: [part for part in of if part == phase or part not in phases] for phase, of in parts.items()}
    request = {
        **given, "step": replays[phases[0]].run_as, "phases": [*dict.fromkeys(p for of in parts.values() for p in of)],
        "where": f"step {first} of the training",
    }  # fmt: skip
    # All that the job recorded of these phases, whether or not it differs there: the step alone must be the job's.
    known = [made for made in pair.kind.by_step if made.name in pair.a.cell.artifacts]
    outputs = {phase: {made.name: made.name for made in known if made.step in parts[phase]} for phase in phases}
    return [Asked(request, outputs, parts)], why


def _not_alone(step: str) -> str:
    return f"The step {step!r} is not one that can be run by itself."


def step_request(
    pair: Pair, step: str, artifacts: Sequence[str], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a `record` job needs to run one step of a job that is not stepwise with A's artifacts.

    Args:
        pair: A and B.
        step: of the pipeline.
        artifacts: those of the step that differ.
        folder: see `requests_for`.

    Returns:
        The request, and the step's outputs by the artifact that each must be equal to in A.

    Raises:
        LookupError: the step cannot be run by itself, or an artifact that it needs was not kept; one sentence.
    """
    replay = pair.kind.replays.get(step)
    if replay is None:
        raise LookupError(_not_alone(step))
    patterns = map(pair.kind.pattern, artifacts)
    chunk = next((chunk for _pattern, chunk in patterns if chunk is not None), "*")  # a step over all chunks at once
    request: dict[str, Any] = {"step": replay.run_as or step}
    if replay.besides:
        request["besides"] = replay.besides
    if sizes := _sizes(pair):
        request["settings"] = sizes
    if replay.batches is not None:
        return _batch_request(pair, step, replay, artifacts, request, folder)
    request["inputs"] = _inputs(pair, step, {n: wanted.replace("*", chunk) for n, wanted in replay.inputs.items()})
    outputs = {name: name for name in artifacts}
    if replay.outputs is not None:
        outputs = {artifact.replace("*", chunk): output for artifact, output in replay.outputs.items()}
    if replay.blocks is not None:
        artifact = replay.inputs[replay.blocks.of[0]].replace("*", chunk)
        request |= _block_rows(pair, [*outputs], artifact, replay.blocks, sizes)
    return request, outputs


def _sizes(pair: Pair) -> dict[str, int]:
    """The numbers that a step must be told, which A's artifacts say."""
    known, found = pair.a.cell.artifacts, {}
    for size, artifacts in pair.kind.sizes.items():
        if (there := next((name for name in artifacts if name in known), None)) is not None:
            found[size] = known[there].shape[0]
    return found


def _inputs(pair: Pair, step: str, names: Mapping[str, str]) -> dict[str, str | list[str]]:
    """A step's name for an input to the file of the artifact that it is, or to those of all chunks, in order."""
    known = pair.a.cell.artifacts

    def file(wanted: str) -> str:
        artifact = known.get(wanted)
        if artifact is None or not artifact.stored:
            raise LookupError(f"The step {step!r} needs {wanted}, which was not kept: run both with --capture full.")
        return str(pair.store.object_path(artifact.digest))

    def files(wanted: str) -> str | list[str]:
        chunks = pair.kind.in_order(name for name in known if name != wanted and pair.kind.pattern(name)[0] == wanted)
        return [file(chunk) for chunk in chunks] or file(wanted)

    return {name: files(wanted) for name, wanted in names.items()}


def _batch_request(
    pair: Pair, step: str, replay: Replay, artifacts: Sequence[str], request: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """The first batch that differs: of the first outer batch, whose inputs were kept, or of a later one."""
    batches = replay.batches
    assert batches is not None
    first = _first_differing(pair, batches.kept)
    if first is None:
        try:
            found, outputs = find_batch(pair, replay, artifacts, folder)
        except LookupError:
            if batches.kept not in pair.a.cell.artifacts:
                raise
        else:
            return request | found, outputs
    request["inputs"] = _inputs(pair, step, replay.inputs)
    size = int(pair.a.cell.spec.settings[batches.size])
    start = (first or 0) // size * size
    total = pair.a.cell.artifacts[next(iter(replay.inputs.values()))].shape[0]
    request["rows"] = {name: [start, min(start + size, total)] for name in request["inputs"]}
    return request, {batches.kept: batches.kept} if batches.kept in pair.a.cell.artifacts else {}


def ragged_ends(store: Store, cell: Cell, name: str) -> Array | None:
    """Where each segment of an artifact ends, if it is ragged: if the cell has `NAME_lengths`, too.

    Raises:
        UnreadableTensor: these cannot be read.
    """
    lengths = cell.artifacts.get(f"{name}_lengths")
    return None if lengths is None else np.cumsum(store.load(lengths).data)


def _first_differing(pair: Pair, *names: str) -> int | None:
    """The first row, or segment, in which the two sides' artifacts differ; None if none does or they were not kept."""
    found = []
    for name in names:
        try:
            x, y = (pair.store.load(side.cell.artifacts[name]).data for side in (pair.a, pair.b))
            row, ends = first_row(x, y), ragged_ends(pair.store, pair.a.cell, name)
        except (KeyError, UnreadableTensor):
            continue
        found.append(row if row is None or ends is None else int(np.searchsorted(ends, row, side="right")))
    return min((row for row in found if row is not None), default=None)


def _block_rows(
    pair: Pair, outputs: list[str], artifact: str, block: Blocks, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """The rows that a step computes at once, around the first that differs."""
    total = pair.a.cell.artifacts[artifact].shape[0]
    first = _first_differing(pair, *outputs) or 0
    begin = first // block.rows * block.rows
    at_once = max(1, block.elements // sizes[block.width]) if block.width else block.rows
    start = begin + (first - begin) // at_once * at_once
    stop = min(start + at_once, begin + block.rows, total)
    if stop - start == total:
        return {}
    where = f"row {start:,} of {artifact}" if stop - start == 1 else f"rows {start:,} to {stop:,} of {artifact}"
    return {"rows": {name: [start, stop] for name in block.of}, "where": where}


# The job keeps the token ids of its first outer batch only. For a difference that starts later, the passage is found
# from the row of the stored embeddings that differs, and its batch is made again by colbert-ai's own tokenizer.


def first_row(x: Array, y: Array) -> int | None:
    """The first row (along the first dimension) in which two arrays differ in any bit; None if none does."""
    if x.dtype != y.dtype or x.shape != y.shape or not x.size:
        return None
    # In slices: a comparison of whole artifacts would need as much memory again.
    step = max(1, (1 << 24) // max(1, x[0].size))
    for start in range(0, len(x), step):
        left, right = (np.ascontiguousarray(part[start : start + step]) for part in (x, y))
        size = len(left)
        unequal = (left.view(np.uint8) != right.view(np.uint8)).reshape(size, -1).any(axis=1)
        if unequal.any():
            return start + int(np.argmax(unequal))
    return None


def embedded_passages(pair: Pair, batches: Batches, artifact: str) -> tuple[list[int], Array]:
    """The passages whose embeddings an artifact of A holds, by their place in the collection, and rows of each.

    Raises:
        LookupError: the artifacts that say so were not kept, or contradict each other; one sentence.
    """
    known = pair.a.cell.artifacts
    try:
        lengths = pair.store.load(known[batches.lengths]).data
        pattern, chunk = pair.kind.pattern(artifact)
        listed = batches.rows[pattern]
        if listed is not None:
            # The job goes through the collection in order and takes those that were chosen.
            chosen = np.sort(pair.store.load(known[listed]).data)
        else:
            ends = np.cumsum(lengths)
            before = sum(known[pattern.replace("*", str(number))].shape[0] for number in range(int(chunk or 0)))
            first = int(np.searchsorted(ends, before, side="right")) if before else 0
            stop = int(np.searchsorted(ends, before + known[artifact].shape[0], side="left")) + 1
            chosen = np.arange(first, stop)
        rows = lengths[chosen]
    except (KeyError, IndexError, UnreadableTensor) as error:
        raise LookupError(f"It is not known which passages {artifact} holds: {error}.") from error
    if int(rows.sum()) != known[artifact].shape[0]:
        raise LookupError(f"The lengths of the passages do not add up to the rows of {artifact}.")
    return [int(number) for number in chosen], rows


def find_batch(
    pair: Pair, replay: Replay, artifacts: Sequence[str], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Find the first batch whose stored embeddings differ, and make its token ids again, in A and in B.

    Args:
        pair: what to explain; its `texts` are the collection.
        replay: of the step that goes through batches.
        artifacts: those of the step that differ.
        folder: gets the token ids; must last as long as the result is used.

    Returns:
        What it adds to the request of `step_request`, and the outputs; a gate is whether B's tokenizer makes the same.

    Raises:
        LookupError: nothing was kept from which it could be found; one sentence.
    """
    reasons = []
    assert replay.batches is not None
    for artifact in pair.kind.in_order(artifacts):
        if pair.kind.pattern(artifact)[0] not in replay.batches.rows:
            continue
        try:
            x, y = (pair.store.load(side.cell.artifacts[artifact]).data for side in (pair.a, pair.b))
        except (KeyError, UnreadableTensor):
            reasons.append(f"{artifact} was not kept by both: run both with --capture full.")
            continue
        if (row := first_row(x, y)) is not None:
            return _batch_of_row(pair, (*replay.inputs,), replay.batches, artifact, row, folder)
        reasons.append(f"{artifact} has no row that could be compared.")
    raise LookupError(" ".join(reasons) or "No kept embeddings differ.")


def _batch_of_row(
    pair: Pair, inputs: Sequence[str], batches: Batches, artifact: str, row: int, folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    if pair.texts is None:
        raise LookupError(f"{artifact} differs beyond the first outer batch, and the passages' texts are not here.")
    passages, rows = embedded_passages(pair, batches, artifact)
    ends = np.cumsum(rows)
    place = int(np.searchsorted(ends, row, side="right"))
    size = int(pair.a.cell.spec.settings[batches.size])
    outer = size * batches.outer
    begin = place // outer * outer
    members = passages[begin : begin + outer]
    texts = pair.texts()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps([texts[number] for number in members]), encoding="utf-8")
    made = []
    for name, side in (("a", pair.a), ("b", pair.b)):
        request: dict[str, Any] = {"texts": str(folder / "texts.json")}
        done = pair.bench.run(side.cell.spec, side.interpreter(), "tensorize", request, folder / name)
        if not done.ok:
            raise LookupError(f"The batch could not be tokenized again in {side.cell.label}: {done.reason}")
        made.append({n: _tensor(folder / name / f"{n}.safetensors") for n in (*inputs, _ORDER)})
    back = made[0][_ORDER].data
    start = int(back[place - begin]) // size * size
    stop = min(start + size, len(members))
    order = np.argsort(back)[start:stop]
    same = all(
        np.array_equal(x.data[start:stop], y.data[start:stop])
        for x, y in ((made[0][name], made[1][name]) for name in inputs)
    ) and np.array_equal(order, np.argsort(made[1][_ORDER].data)[start:stop])
    spans = [(int(ends[begin + i] - rows[begin + i]), int(ends[begin + i])) for i in order]
    width = int(made[0][inputs[0]].data.shape[1])
    where = (
        f"row {row:,} of {artifact} is of passage {passages[place]:,}, in a batch of {stop - start} x {width} tokens"
    )
    return {
        "inputs": {name: str(folder / "a" / f"{name}.safetensors") for name in inputs},
        "rows": {name: [start, stop] for name in inputs},
        "spans": tuple(spans),
        "where": where,
        "gates": {"A and B make the same batch": same},
    }, {artifact: batches.kept}


def _tensor(path: Path) -> Tensor:
    try:
        return read_safetensors(path)["tensor"]
    except UnreadableTensor as error:
        raise InfrastructureError(f"A job left a file that cannot be read: {error}") from error


def rows_of_spans(stored: Array, spans: Sequence[Sequence[int]]) -> Array:
    """The rows of an artifact that belong to a batch's passages, in the batch's order."""
    return np.concatenate([stored[start:stop] for start, stop in spans])
