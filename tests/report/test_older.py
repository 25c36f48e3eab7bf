"""Tables of schema 1 read as those of today: nothing is made up, nothing is lost, and what is derived is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import cli
from harness.errors import UsageError
from harness.report.columns import OF_WHAT, TABLES
from harness.report.older import blamed_by
from harness.report.parquet import SCHEMA, read_table, renew_table, write_table

ABOUT = {"device": "cpu Some 1/2 avx2", "collection": "my passages 7 abc", "checkpoint": "small def"}
OLD: dict[str, Any] = {
    "kind": "consecutive", "a": "1", "b": "2", "key_a": "ka", "key_b": "kb", "artifact": "centroids", "final": True,
    "status": "different", "dtype_a": "float32", "dtype_b": "float32", "max_abs": 2e-9, "max_ulp": 1_800_000_000,
    "details": json.dumps({"max_abs_values": [-1e-9, 1e-9]}), "atol": 1e-8, "rtol": 1e-5,
}  # fmt: skip


def old_table(folder: Path, name: str, rows: list[dict[str, Any]], **about: str) -> Path:
    path = folder / f"{name}.parquet"
    table = pa.Table.from_pylist(rows)
    pq.write_table(
        table.replace_schema_metadata({"harness_schema": "1", "harness_table": name, **ABOUT, **about}), path
    )
    return path


def comparisons(folder: Path) -> Path:
    return old_table(
        folder, "comparisons",
        [
            OLD | {"profile": "default", "close": False, "min_rtol": 2.0},
            OLD | {"profile": "bnb", "close": True, "min_rtol": 0.0},
            OLD | {"profile": "mine", "close": False, "min_rtol": 3.0},
            OLD | {"artifact": "ivf", "profile": "", "close": None, "min_rtol": None, "dtype_b": "i", "details": "{}"},
        ],
    )  # fmt: skip


def test_profiles_become_columns_of_one_row(tmp_path):
    centroids, ivf = read_table(comparisons(tmp_path), "mend")[0]

    assert {name: centroids[name] for name in ("default", "default_min_rtol", "bnb", "bnb_min_rtol", "failing")} == {
        "default": False, "default_min_rtol": 2.0, "bnb": True, "bnb_min_rtol": 0.0, "failing": ["default", "mine"],
    }  # fmt: skip
    assert (ivf["default"], ivf["failing"], ivf["max_abs_ulp"]) == (None, None, None)
    assert centroids["max_abs_ulp"] < centroids["max_ulp"] / 10
    assert centroids["max_ulp"] == OLD["max_ulp"]


def test_each_row_says_what_it_is_of(tmp_path):
    for row in read_table(comparisons(tmp_path), "mend")[0]:
        assert [row[name] for name in OF_WHAT] == ["cpu Some 1/2 avx2", "my passages", 7, "small", None]
        assert set(row) == set(TABLES["comparisons"].columns)


def test_of_which_job_an_older_table_is_its_sweep_s_cells_say(tmp_path):
    old_table(tmp_path, "cells", [{"group": "g", "job": "train", "collection": "c"}, {"group": "s", "job": "search"}])
    headline = old_table(tmp_path, "consecutive", [{"a": "1", "b": "2"}], group="g")
    swaps = old_table(tmp_path, "swaps", [{"job": "2.8.0"}])

    assert [row["job"] for row in read_table(headline, "mend")[0]] == ["train"]
    assert [(row["cell"], row["job"]) for row in read_table(swaps, "mend")[0]] == [("2.8.0", "train")]
    assert [row["job"] for row in read_table(tmp_path / "cells.parquet", "mend")[0]] == ["train", "search"]


def test_a_table_of_today_says_the_same_and_a_row_of_a_cell_speaks_for_itself(tmp_path):
    path = write_table(tmp_path, "comparisons", [{"a": "1"}], **ABOUT, job="index")
    cells = write_table(tmp_path, "cells", [{"collection": "its own", "job": "search"}, {}], **ABOUT, job="index")
    found = {name: pq.read_table(path).to_pylist()[0][name] for name in OF_WHAT}
    rows = pq.read_table(cells).to_pylist()

    assert found == {
        "device": ABOUT["device"], "collection": "my passages", "passages": 7, "checkpoint": "small", "job": "index",
    }  # fmt: skip
    assert [(row["collection"], row["job"]) for row in rows] == [("its own", "search"), ("my passages", "index")]


def test_a_table_is_renewed_from_itself_and_once(tmp_path, capsys):
    path = comparisons(tmp_path)
    before = read_table(path, "mend")
    with pytest.raises(SystemExit) as caught:
        cli.main(["renew", str(tmp_path)])

    assert caught.value.code == 0
    assert "1 of 1 tables" in capsys.readouterr().out
    rows, about = read_table(path, "mend")
    assert rows == before[0]
    assert about == before[1] | {"harness_schema": SCHEMA}
    assert not renew_table(path, "mend")


def test_a_file_that_calls_itself_a_table_and_is_none_is_a_sentence(tmp_path):
    path = old_table(tmp_path, "comparisons", [{"kind": "consecutive"}])

    with pytest.raises(UsageError, match="is not the table that it says it is"):
        read_table(path, "mend")


def exchange(what: str, base: str, result: str, packages: str = "") -> dict[str, str]:
    return {"what": what, "base": base, "result": result, "packages": packages or what}


@pytest.mark.parametrize(
    ("rows", "blamed"),
    [
        ([exchange("torch", "B", "as A", "torch,nccl"), exchange("torch", "A", "as B")], ["torch"]),
        ([exchange("torch", "B", "as A"), exchange("torch", "A", "as A")], []),
        ([exchange("torch", "B", "as B"), exchange("torch", "A", "as A")], []),
        (
            [
                *(exchange(w, "B", "as A") for w in ("a,b", "a,b,c")),
                *(exchange(w, "A", "as B") for w in ("a,b", "a,b,c")),
                exchange("a", "B", "as B"), exchange("a", "A", "as B"),
            ],
            ["a", "b"],
        ),
        ([exchange("all of it", "B", "as A", "x,y"), exchange("all of it", "A", "as B", "x,y")], ["x", "y"]),
        ([{"what": "torch", "base": None, "result": "not exchangeable", "packages": "torch"}], []),
    ],
)  # fmt: skip
def test_who_is_blamed_follows_from_the_exchanges_in_both_directions(rows, blamed):
    assert blamed_by(rows) == blamed
