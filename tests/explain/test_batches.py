"""From a row of stored embeddings that differs to the batch that it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.index_job import INDEX
from harness.environments.interpreter import Interpreter
from harness.explain.pair import Pair, Side
from harness.explain.requests import embedded_passages, find_batch, first_row, rows_of_spans, step_request
from harness.running.job import JobResult
from harness.store.cell import Artifact, Cell
from harness.tensors.dtypes import Array
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import cell, spec

ENCODE = INDEX.replays["encode"]
assert ENCODE.batches is not None
BATCHES = ENCODE.batches
SIZE, OUTER = 2, BATCHES.outer
LENGTHS = np.array([3 + n % 4 for n in range(3 * SIZE * OUTER)], dtype=np.int64)
SAMPLED = np.array([n for n in range(len(LENGTHS)) if n % 3], dtype=np.int64)
CUT = 130
"""Passages in the first chunk."""


class _Store:
    """Artifacts by their digest, which here is their name."""

    def __init__(self) -> None:
        self.held: dict[str, Array] = {}

    def load(self, artifact: Artifact) -> Tensor:
        return Tensor.of(self.held[artifact.digest])

    def object_path(self, digest: str) -> Path:
        return Path(digest)

    def cell(self, side: str, arrays: dict[str, Array], job: str = "index") -> Cell:
        self.held |= {f"{side}{name}": array for name, array in arrays.items()}
        artifacts = {
            name: Artifact(f"{side}{name}", str(array.dtype), array.shape, "intermediate", True)
            for name, array in arrays.items()
        }
        return cell(spec("2.7.1", job=job, settings={"index_bsize": SIZE}), artifacts=artifacts)


class _Bench:
    """Tokenizes like colbert-ai: sorted by length, cut into batches, with the way back."""

    def __init__(self, spoil: str = "") -> None:
        self.spoil, self.texts = spoil, list[str]()

    def run(self, _spec: Any, interpreter: Interpreter, job: str, request: dict[str, Any], out: Path) -> JobResult:
        assert job == "tensorize"
        self.texts = json.loads(Path(request["texts"]).read_text())
        numbers = np.array([int(text) for text in self.texts], dtype=np.int64)
        order = np.argsort(LENGTHS[numbers], kind="stable")
        if str(interpreter.python) == self.spoil:
            order = order[::-1].copy()
        out.mkdir(parents=True)
        made = {"input_ids": numbers[order][:, None], "attention_mask": LENGTHS[numbers[order]][:, None]}
        for name, array in {**made, "reverse_indices": np.argsort(order)}.items():
            write_safetensors(out / f"{name}.safetensors", {"tensor": Tensor.of(array)})
        return JobResult("ok", "", out, {})


def _embeddings(passages: Array) -> Array:
    """Each row says which passage it is of."""
    return np.repeat(passages, LENGTHS[passages]).astype(np.float32)[:, None].repeat(2, axis=1)


@pytest.fixture
def make() -> Callable[..., tuple[Pair, _Bench]]:
    def pair(changed: int, artifact: str, spoil: str = "") -> tuple[Pair, _Bench]:
        everything = np.arange(len(LENGTHS))
        arrays = {
            "doclens": LENGTHS, "sample_pids": SAMPLED[::-1].copy(), "local_sample_embs": _embeddings(SAMPLED),
            "embs_0": _embeddings(everything[:CUT]), "embs_1": _embeddings(everything[CUT:]),
        }  # fmt: skip
        other = dict(arrays)
        other[artifact] = np.where(arrays[artifact] == changed, -1, arrays[artifact]).astype(np.float32)
        store, bench = _Store(), _Bench(spoil)
        sides = [
            Side(store.cell(name, of), lambda name=name: Interpreter(Path(name)))  # type: ignore[misc]
            for name, of in (("a", arrays), ("b", other))
        ]
        texts = [str(number) for number in everything]
        return Pair(sides[0], sides[1], frozenset(), 1, store, bench, lambda: texts), bench  # type: ignore[arg-type]

    return pair


@pytest.mark.parametrize(
    ("artifact", "passage"),
    [("local_sample_embs", 1), ("local_sample_embs", 200), ("local_sample_embs", 299), ("embs_0", 129), ("embs_1", 130),
     ("embs_1", 299), ("embs_0", 0)],
)  # fmt: skip
def test_the_batch_of_the_first_passage_that_differs_is_found(
    make: Callable[..., tuple[Pair, _Bench]], tmp_path: Path, artifact: str, passage: int
) -> None:
    pair, bench = make(passage, artifact)

    request, outputs = find_batch(pair, ENCODE, ["local_sample_embs", "embs_0", "embs_1"], tmp_path / "batch")

    passages, _rows = embedded_passages(pair, BATCHES, artifact)
    ids = json.loads(json.dumps([int(text) for text in bench.texts]))
    place = passages.index(passage)
    outer = passages[place // (SIZE * OUTER) * SIZE * OUTER :][: SIZE * OUTER]
    stored = pair.store.load(pair.a.cell.artifacts[artifact]).data
    of_batch = [int(stored[start][0]) for start, _stop in request["spans"]]
    assert list(outputs) == [artifact]
    assert ids == outer
    assert passage in of_batch
    assert request["gates"] == {"A and B make the same batch": True}
    assert f"passage {passage}" in request["where"]
    assert rows_of_spans(stored, request["spans"])[:, 0].tolist() == [p for p in of_batch for _ in range(LENGTHS[p])]


def test_a_tokenizer_that_makes_other_batches_in_b_is_noticed(
    make: Callable[..., tuple[Pair, _Bench]], tmp_path: Path
) -> None:
    pair, _bench = make(200, "local_sample_embs", "b")

    request, _outputs = find_batch(pair, ENCODE, ["local_sample_embs"], tmp_path / "batch")

    assert request["gates"] == {"A and B make the same batch": False}


def test_lengths_that_do_not_add_up_are_no_guess(make: Callable[..., tuple[Pair, _Bench]]) -> None:
    pair, _bench = make(1, "local_sample_embs")
    pair.store.held["asample_pids"] = SAMPLED[:-1]  # type: ignore[attr-defined]

    with pytest.raises(LookupError, match="do not add up"):
        embedded_passages(pair, BATCHES, "local_sample_embs")


def test_nothing_that_differs_is_a_sentence(make: Callable[..., tuple[Pair, _Bench]], tmp_path: Path) -> None:
    pair, _bench = make(-7, "embs_0")

    with pytest.raises(LookupError, match="no row"):
        find_batch(pair, ENCODE, ["embs_0", "batches"], tmp_path)


def test_a_row_differs_in_bits_and_not_in_value() -> None:
    x = np.zeros((3, 2), np.float16)
    y = x.copy()
    assert first_row(x, y) is None

    y[2, 1] = -0.0

    assert first_row(x, y) == 2
    assert first_row(x, y[:2]) is None
    assert first_row(np.full((2, 1), np.nan), np.full((2, 1), np.nan)) is None


@pytest.mark.parametrize(("place", "query"), [(0, 0), (2, 0), (3, 2), (4, 3), (7, 3)])
def test_a_step_of_a_search_runs_alone_for_the_first_query_that_differs(place, query, tmp_path):
    """Rows of all queries lie one after the other: three of the first, none of the second, and so on."""
    lengths = np.array([3, 0, 1, 4], dtype=np.int64)
    arrays: dict[str, Array] = {
        "Q": np.zeros((4, 2), np.float32), "stage2": np.arange(8, dtype=np.int32), "stage2_lengths": lengths,
        "maxsim": np.zeros(8, np.float32), "maxsim_lengths": lengths, "0.codes": np.zeros(9, np.int32),
        "0.residuals": np.zeros((9, 2), np.uint8), "doclens": np.ones(9, np.int64),
        "centroids": np.zeros((2, 2), np.float32), "bucket_weights": np.zeros(4, np.float32),
    }  # fmt: skip
    other = {**arrays, "maxsim": np.where(np.arange(8) == place, 1, 0).astype(np.float32)}
    store = _Store()
    a, b = (
        Side(store.cell(name, of, "search"), partial(Interpreter, Path(name)))
        for name, of in (("a", arrays), ("b", other))
    )

    request, outputs = step_request(Pair(a, b, frozenset(), 0, store, _Bench()), "score", ["maxsim"], tmp_path)  # type: ignore[arg-type]

    assert request["rows"] == {key: [query, query + 1] for key in ("Q", "stage2", "stage2_lengths")}
    assert request["where"] == f"row {query} of Q"
    assert list(outputs) == ["maxsim"]
