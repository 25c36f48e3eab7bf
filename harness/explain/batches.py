"""The batch of passages in which two cells' embeddings first differ, wherever in the collection that is.

The job keeps the token ids of its first outer batch only. For a difference that starts later, the passage is found from
the row of the stored embeddings that differs, and its batch is made again from the texts by colbert-ai's own tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.kind import Batches, Replay
from harness.errors import InfrastructureError, UnreadableTensor
from harness.explain.pair import Pair
from harness.tensors.dtypes import Array
from harness.tensors.safetensors import read_safetensors
from harness.tensors.tensor import Tensor

_ORDER = "reverse_indices"
"""What the tokenizer says beside a step's inputs: where each passage, in the order of the texts, is in the batch."""


@dataclass(frozen=True)
class Batch:
    """One batch of `Checkpoint.docFromText`.

    Attributes:
        artifact: the stored embeddings in which it was found to differ.
        inputs: the step's inputs for its outer batch, sorted, as safetensors files.
        rows: start and stop of the batch in them.
        spans: start and stop, in the artifact, of each of its passages, in the batch's order.
        same_in_b: whether B's tokenizer, on the same texts, makes the same batch.
        said: where it is, in words.
    """

    artifact: str
    inputs: dict[str, str]
    rows: tuple[int, int]
    spans: tuple[tuple[int, int], ...]
    same_in_b: bool
    said: str


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


def find_batch(pair: Pair, replay: Replay, artifacts: Sequence[str], folder: Path) -> Batch:
    """Find the first batch whose stored embeddings differ, and make its token ids again, in A and in B.

    Args:
        pair: what to explain; its `texts` are the collection.
        replay: of the step that goes through batches.
        artifacts: those of the step that differ.
        folder: gets the token ids; must last as long as the result is used.

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
            reasons.append(f"{artifact} was not kept by both: index with --capture full.")
            continue
        row = first_row(x, y)
        if row is not None:
            return _batch_of_row(pair, (*replay.inputs,), replay.batches, artifact, row, folder)
        reasons.append(f"{artifact} has no row that could be compared.")
    raise LookupError(" ".join(reasons) or "No kept embeddings differ.")


def _batch_of_row(pair: Pair, inputs: Sequence[str], batches: Batches, artifact: str, row: int, folder: Path) -> Batch:
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
        done = pair.bench.run(side.spec, side.interpreter(), "tensorize", request, folder / name)
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
    return Batch(
        artifact,
        {name: str(folder / "a" / f"{name}.safetensors") for name in inputs},
        (start, stop),
        tuple(spans),
        same,
        f"row {row:,} of {artifact} is of passage {passages[place]:,}, in a batch of {stop - start} x {width} tokens",
    )


def _tensor(path: Path) -> Tensor:
    try:
        return read_safetensors(path)["tensor"]
    except UnreadableTensor as error:
        raise InfrastructureError(f"A job left a file that cannot be read: {error}") from error


def rows_of_spans(stored: Array, spans: Sequence[Sequence[int]]) -> Array:
    """The rows of an artifact that belong to a batch's passages, in the batch's order."""
    return np.concatenate([stored[start:stop] for start, stop in spans])
