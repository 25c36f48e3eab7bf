"""What a step needs to be run alone, taken from what the two cells kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.artifacts.index_job import RUN_AS, STEP_INPUTS
from harness.artifacts.names import pattern
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
    a = pair.a
    run_as = RUN_AS.get(step, step)
    if run_as not in STEP_INPUTS:
        raise LookupError(f"The step {step!r} runs no torch operator that could be replayed by itself.")
    chunk = next((chunk for _generic, chunk in map(pattern, artifacts) if chunk is not None), "0")
    request: dict[str, Any] = {"step": run_as}
    for known, size in (("centroids_raw", 0), ("ivf_lengths", 0), ("centroids", 0)):
        if known in a.cell.artifacts:
            request["settings"] = {"partitions": a.cell.artifacts[known].shape[size]}
            break
    if run_as == "encode":
        return _encode_request(pair, artifacts, request, folder)
    request["inputs"] = _inputs(pair, step, {n: g.replace("*", chunk) for n, g in STEP_INPUTS[run_as].items()})
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
    from harness.explain.batches import find_batch

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
    request["inputs"] = _inputs(pair, "encode", STEP_INPUTS["encode"])
    size = int(pair.a.cell.spec.settings["index_bsize"])
    start = (first or 0) // size * size
    total = pair.a.cell.artifacts["tensorize_output.input_ids"].shape[0]
    request["rows"] = {name: [start, min(start + size, total)] for name in request["inputs"]}
    return request, {"batches": "batches"} if "batches" in pair.a.cell.artifacts else {}


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
