"""Tables of findings gather what several commands found, of one device, collection and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.errors import UsageError
from harness.report.parquet import Gathering, write_table
from harness.running.experiment import Experiment
from harness.running.selection import Selection
from tests.support.checkpoints import write_checkpoint


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "good.jsonl").write_text('{"text": "A passage"}\n')
    checkpoint = str(write_checkpoint(tmp_path / "ck"))
    return {"home": tmp_path / "home", "collection": str(tmp_path / "good.jsonl"), "checkpoint": checkpoint}


def experiment(inputs: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment(Selection(**{"device": "cpu", "threads": 1, **inputs, **changes}))


def row(a: str, b: str, step: str) -> dict[str, str]:
    return {"a": a, "b": b, "step": step}


def read(path: Path) -> list[tuple[str, str, str]]:
    return [(r["a"], r["b"], r["step"]) for r in pq.read_table(path).to_pylist()]


def test_the_rows_of_other_pairs_stay_and_those_of_the_same_pair_are_replaced(tmp_path, inputs):
    made = experiment(inputs)
    folder = tmp_path / "tables"

    Gathering(folder, "locations", made, "2.4.1").write(
        [row("2.4.1", "2.5.0", "encode"), row("2.4.1", "2.5.0", "train")]
    )
    Gathering(folder, "locations", made, "2.7.1").write([row("2.7.1", "2.8.0", "train")])
    path = Gathering(folder, "locations", made, "2.4.1").write([row("2.4.1", "2.5.0", "codes")])

    assert read(path) == [("2.7.1", "2.8.0", "train"), ("2.4.1", "2.5.0", "codes")]


def test_a_swap_replaces_the_same_swap_only(tmp_path, inputs):
    swap = {"cell": "2.5.0", "artifacts": "embs_0", "values_of": "2.4.1", "reference": "2.4.1"}
    other = {**swap, "artifacts": "codes"}
    folder, made = tmp_path / "tables", experiment(inputs)

    Gathering(folder, "swaps", made, "2.4.1").write([{**swap, "artifact": "ivf"}, {**other, "artifact": "ivf"}])
    path = Gathering(folder, "swaps", made, "2.4.1").write([{**swap, "artifact": "centroids"}])

    rows = [(r["artifacts"], r["artifact"]) for r in pq.read_table(path).to_pylist()]
    assert rows == [("codes", "ivf"), ("embs_0", "centroids")]


def test_findings_of_another_collection_are_refused_before_the_work(tmp_path, inputs):
    folder = tmp_path / "tables"
    path = Gathering(folder, "blame", experiment(inputs), "2.4.1").write([{"a": "2.4.1", "b": "2.5.0"}])
    (tmp_path / "other.jsonl").write_text('{"text": "Another passage"}\n')
    before = path.read_bytes()

    with pytest.raises(UsageError, match=r"blame\.parquet holds the findings of another collection .*another --output"):
        Gathering(folder, "blame", experiment(inputs, collection=str(tmp_path / "other.jsonl")), "2.4.1")

    assert path.read_bytes() == before


def test_a_table_from_before_tables_said_what_they_are_of_is_kept(tmp_path, inputs):
    folder = tmp_path / "tables"
    write_table(folder, "locations", [row("2.6.0", "2.7.0", "encode")])

    path = Gathering(folder, "locations", experiment(inputs), "2.7.1").write([row("2.7.1", "2.8.0", "train")])

    assert read(path) == [("2.6.0", "2.7.0", "encode"), ("2.7.1", "2.8.0", "train")]
    assert b"device" in pq.read_schema(path).metadata


def test_a_file_that_is_no_table_is_refused(tmp_path, inputs):
    (tmp_path / "locations.parquet").write_text("no table")

    with pytest.raises(UsageError, match=r"locations\.parquet cannot be read as a table"):
        Gathering(tmp_path, "locations", experiment(inputs), "2.7.1")
