"""What a step needs to be run alone, taken from what the two cells kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.artifacts.kind import Blocks, Replay
from harness.errors import UnreadableTensor
from harness.explain.pair import Pair


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
    replay = pair.kind.replays.get(step)
    if replay is None:
        raise LookupError(f"The step {step!r} is not one that can be run by itself.")
    patterns = map(pair.kind.pattern, artifacts)
    chunk = next((chunk for _pattern, chunk in patterns if chunk is not None), "0")
    request: dict[str, Any] = {"step": replay.run_as or step}
    sizes = _sizes(pair)
    if sizes:
        request["settings"] = sizes
    if replay.batches is not None:
        return _batch_request(pair, step, replay, artifacts, request, folder)
    request["inputs"] = _inputs(pair, step, {n: wanted.replace("*", chunk) for n, wanted in replay.inputs.items()})
    outputs = {name: name for name in artifacts}
    if replay.outputs is not None:
        outputs = {artifact.replace("*", chunk): output for artifact, output in replay.outputs.items()}
    if replay.blocks is not None:
        block = replay.blocks
        artifact = replay.inputs[block.of].replace("*", chunk)
        request |= _block_rows(pair, [*outputs], artifact, block, sizes[block.width])
    return request, outputs


def _sizes(pair: Pair) -> dict[str, int]:
    """The numbers that a step must be told, which A's artifacts say."""
    known, found = pair.a.cell.artifacts, {}
    for size, artifacts in pair.kind.sizes.items():
        there = next((name for name in artifacts if name in known), None)
        if there is not None:
            found[size] = known[there].shape[0]
    return found


def _inputs(pair: Pair, step: str, names: Mapping[str, str]) -> dict[str, str]:
    """A step's name for an input to the file of the artifact that it is."""
    found = {}
    for name, wanted in names.items():
        artifact = pair.a.cell.artifacts.get(wanted)
        if artifact is None or not artifact.stored:
            raise LookupError(f"The step {step!r} needs {wanted}, which was not kept: index with --capture full.")
        found[name] = str(pair.store.object_path(artifact.digest))
    return found


def _batch_request(
    pair: Pair, step: str, replay: Replay, artifacts: Sequence[str], request: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """The first batch that differs: of the first outer batch, whose inputs were kept, or of a later one."""
    from harness.explain.batches import find_batch

    batches = replay.batches
    assert batches is not None
    first = _first_differing(pair, batches.kept)
    if first is None:
        try:
            batch = find_batch(pair, replay, artifacts, folder)
        except LookupError:
            if batches.kept not in pair.a.cell.artifacts:
                raise
        else:
            more = {
                "inputs": batch.inputs,
                "rows": {name: list(batch.rows) for name in batch.inputs},
                "spans": batch.spans,
                "where": batch.said,
                "gates": {"A and B make the same batch": batch.same_in_b},
            }
            return {**request, **more}, {batch.artifact: batches.kept}
    request["inputs"] = _inputs(pair, step, replay.inputs)
    size = int(pair.a.cell.spec.settings[batches.size])
    start = (first or 0) // size * size
    total = pair.a.cell.artifacts[next(iter(replay.inputs.values()))].shape[0]
    request["rows"] = {name: [start, min(start + size, total)] for name in request["inputs"]}
    return request, {batches.kept: batches.kept} if batches.kept in pair.a.cell.artifacts else {}


def _first_differing(pair: Pair, *names: str) -> int | None:
    """The first row in which the two sides' artifacts differ; None if none does or they were not kept."""
    from harness.explain.batches import first_row

    found = []
    for name in names:
        try:
            x, y = (pair.store.load(side.cell.artifacts[name]).data for side in (pair.a, pair.b))
        except (KeyError, UnreadableTensor):
            continue
        found.append(first_row(x, y))
    return min((row for row in found if row is not None), default=None)


def _block_rows(pair: Pair, outputs: list[str], artifact: str, block: Blocks, width: int) -> dict[str, Any]:
    """The rows that a step computes at once, around the first that differs."""
    total = pair.a.cell.artifacts[artifact].shape[0]
    first = _first_differing(pair, *outputs) or 0
    begin = first // block.rows * block.rows
    at_once = max(1, block.elements // width)
    start = begin + (first - begin) // at_once * at_once
    stop = min(start + at_once, begin + block.rows, total)
    if stop - start == total:
        return {}
    return {"rows": {block.of: [start, stop]}, "where": f"rows {start:,} to {stop:,} of {artifact}"}
