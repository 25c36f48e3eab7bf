"""A job kind is one declaration: a made-up one goes through everything that orders, compares and explains cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts import kinds
from harness.artifacts.comparison import compare_sources
from harness.artifacts.graph import Change, origins
from harness.artifacts.index_job import INDEX
from harness.artifacts.kind import JobKind, Made, Replay, all_chunks
from harness.artifacts.kinds import kind_of
from harness.artifacts.ladder import all_digests, all_pairs, ladder
from harness.artifacts.source import ArtifactSource
from harness.errors import ExitCode, UsageError
from harness.explain.compared import compare_cells
from harness.explain.locate import look
from harness.explain.marks import mark
from harness.explain.pair import Pair, Side
from harness.explain.requests import step_request
from harness.explain.swap import check_names, kept
from harness.home import Home
from harness.report.comparison_text import kinds_of, text
from harness.running.job import Workbench
from harness.store.cell import Cell
from harness.store.objects import TENSOR
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.profiles import DEFAULT
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import cell, spec


class Sums:
    """Tells by how much the sum of a tensor grew."""

    first = ""

    def __init__(self, a: ArtifactSource, b: ArtifactSource) -> None:
        self.sides = (a, b)

    def facts(self, name: str, left: Tensor | None, right: Tensor | None) -> dict[str, Any]:  # noqa: ARG002
        return {} if left is None or right is None else {"grew_by": float(right.data.sum() - left.data.sum())}

    def prepare(self) -> None:
        pass

    def notes(self, facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:  # noqa: ARG002
        yield f"{len(self.sides)} sides were added up."


TOY = JobKind(
    "toy",
    (Made("words", "read", swappable=True), Made("counts-*", "count", ("words",), role="final", swappable=True)),
    Sums,
    replays={"count": Replay({"text": "words"}, outputs={"counts-*": "counted"})},
)
SAME = {"counts-10": 3, "counts-9": 2, "words": 1}
CHANGED = {**SAME, "counts-9": 5}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "toy": TOY})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def ended(store: Store, version: str, values: dict[str, int]) -> Cell:
    tensors = {name: Tensor.of(np.full((2, 2), value, np.float32)) for name, value in values.items()}
    artifacts = {name: store.keep_tensor(tensor, TOY.role(name) or "", stored=True) for name, tensor in tensors.items()}
    found = store.get(store.put(cell(replace(spec(version), job="toy"), artifacts=artifacts)).key)
    assert found is not None
    return found


def pair_of(store: Store) -> Pair:
    def no_interpreter() -> Any:
        raise AssertionError

    a, b = (Side(ended(store, f"2.{n}.0", values), no_interpreter) for n, values in ((7, SAME), (8, CHANGED)))
    return Pair(a, b, frozenset(), 0, store, Workbench(Home(store.root), store.root))


def test_names_are_in_the_job_s_order_and_chunks_by_number(store: Store) -> None:
    assert list(ended(store, "2.7.1", SAME).artifacts) == ["words", "counts-9", "counts-10"]
    assert TOY.in_order(["other", "counts-10", "words", "counts-9"]) == ["words", "counts-9", "counts-10", "other"]
    assert TOY.pattern("counts-10") == ("counts-*", "10")
    assert (TOY.role("words"), TOY.role("counts-1"), TOY.role("0.codes")) == ("intermediate", "final", None)


def test_cells_of_another_kind_are_compared_by_its_declaration(store: Store) -> None:
    pair = pair_of(store)
    a, b = (StoredCell(store, side.cell) for side in (pair.a, pair.b))
    found = mark(compare_sources(a, b, [DEFAULT]), a, b)
    rows = {one.name: one for one in found.artifacts}

    assert kind_of(a) is found.kind is TOY
    assert [one.name for one in found.final] == ["counts-9", "counts-10"]
    assert rows["counts-9"].facts == {"grew_by": 12.0}
    assert rows["counts-9"].place is not None
    assert (rows["counts-9"].place.step, rows["counts-9"].place.inputs) == ("count", ("words",))
    assert found.outcome is ExitCode.DIVERGENCE
    assert "2 sides were added up." in found.notes
    assert "beyond 'default' in counts-9" in text(found)
    assert kinds_of(found).label(["counts-9", "counts-10"]) == "counts (2 chunks)"
    assert [one.name for one in compare_cells(store, pair.a.cell, pair.b.cell, "", [DEFAULT]).final()] == [
        "counts-9",
        "counts-10",
    ]


def test_a_ladder_and_all_pairs_order_and_count_by_it(store: Store) -> None:
    sources = [StoredCell(store, ended(store, f"2.{n}.0", values)) for n, values in ((7, SAME), (8, CHANGED))]
    items = [(one.name, digests) for one, (digests, _) in zip(sources, all_digests(sources), strict=True)]
    found = ladder(items, kind=TOY)

    assert list(found.classes) == ["words", "counts-9", "counts-10"]
    assert [step.changed for step in found.steps] == [one.changed for one in all_pairs(items, TOY)] == [("counts-9",)]


def test_a_difference_is_traced_and_its_step_asked_for(store: Store, tmp_path: Path) -> None:
    pair = pair_of(store)
    places = look(pair).places
    request, outputs = step_request(pair, "count", ("counts-9",), tmp_path)

    assert [place.change for place in places] == [Change.EQUAL, Change.ORIGIN, Change.EQUAL]
    assert origins(places) == {"count": ("counts-9",)}
    words = pair.a.cell.artifacts["words"]
    assert request == {"step": "count", "inputs": {"text": str(store.object_path(words.digest))}}
    assert outputs == {"counts-9": "counted"}
    with pytest.raises(LookupError, match="'read' is not one that can be run"):
        step_request(pair, "read", ("words",), tmp_path)


def test_a_step_over_all_chunks_gets_all_of_them_in_order(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adding = replace(TOY, replays={"add up": Replay({"each": "counts-*", "text": "words"})})
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "toy": adding})
    pair = pair_of(store)
    request, _ = step_request(pair, "add up", ("total",), tmp_path)

    files = {name: str(store.object_path(one.digest)) for name, one in pair.a.cell.artifacts.items()}
    assert request["inputs"] == {"each": [files["counts-9"], files["counts-10"]], "text": files["words"]}


def test_what_can_be_swapped_is_what_it_says(store: Store) -> None:
    check_names(["words", "counts", "counts-0"], lambda: 1, TOY)
    with pytest.raises(UsageError, match="these can: words, counts-<chunk>, and counts for all chunks"):
        check_names(["embs_0"], lambda: 1, TOY)

    assert kept(pair_of(store).a, ["counts"]) == ("counts-9", "counts-10")


def test_the_index_job_declares_each_artifact_once_and_only_from_what_it_declares() -> None:
    names = [one.name for one in (*INDEX.made, *INDEX.added)]
    used = {name for one in (*INDEX.made, *INDEX.added) for name in one.inputs}
    replayed = {name for one in INDEX.replays.values() for name in (*one.inputs.values(), *(one.outputs or ()))}
    together = [all_chunks(name) for name in INDEX.swappable if "*" in name]

    assert len(names) == len(set(names))
    assert used | replayed | {name for size in INDEX.sizes.values() for name in size} <= set(names)
    assert set(INDEX.replays) <= {one.step for one in INDEX.made}
    assert not set(together) & set(names)  # `embs` stands for all chunks, so no artifact may be called so


def test_what_a_finished_job_left_is_read_as_its_kind_says(tmp_path: Path) -> None:
    made = {name: Tensor.of(np.full(2, value)) for name, value in SAME.items()}
    for name in ("words", "counts-9"):
        write_safetensors(tmp_path / f"{name}.safetensors", {TENSOR: made[name]})
    store = Store(tmp_path / "store")

    kept = store.ingest(TOY, [("counts-10", made["counts-10"])], tmp_path, "digests")

    assert list(kept) == ["words", "counts-9", "counts-10"]
    assert {name: artifact.kind for name, artifact in kept.items() if artifact.stored} == {
        "counts-9": "final", "counts-10": "final",
    }  # fmt: skip
    assert all(store.load(kept[name]).digest() == made[name].digest() for name in ("counts-9", "counts-10"))
