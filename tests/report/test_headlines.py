"""Headline tables side by side: folders of tables and published ones, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import UsageError
from harness.report.headlines import disagreements, read_headlines, side_by_side
from harness.report.parquet import SCHEMA
from tests.support.command import run

ARTICLE = Path(__file__).parents[2] / "docs" / "article.csv"
HEAD = "a,b,total,shapes_match,default_match,bnb_match\n"


def folder(path: Path, *rows: Mapping[str, object], collection: str = "good 3000 0123", **about: str) -> Path:
    """A folder of tables with these rows of the headline table."""
    whole = {"total": 12, "shapes_match": 12, "default_match": 12, "bnb_match": 12, "bit_equal": 12, "gap": ""}
    metadata = {"harness_schema": SCHEMA, "collection": collection, "device": "cpu", "checkpoint": "ck 4567"}
    table = pa.Table.from_pylist([{**whole, **row} for row in rows])
    path.mkdir()
    pq.write_table(table.replace_schema_metadata({**metadata, **about}), path / "consecutive.parquet")
    return path


def words(*paths: Path) -> dict[Any, Any]:
    titles, rows = side_by_side([read_headlines(path) for path in paths])
    return {title: {step: said[number] for step, said in rows.items()} for number, title in enumerate(titles)}


def test_steps_of_all_tables_are_shown_in_the_order_of_their_versions(tmp_path):
    (tmp_path / "short.csv").write_text(HEAD + "2.10.0,2.11.0,12,12,12,12\n2.9.0,2.10.0,12,12,12,12\n")
    made = folder(tmp_path / "made", {"a": "2.4.1", "b": "2.5.0"})

    found = words(made, tmp_path / "short.csv")

    assert list(found) == ["good (3,000 passages)", "short"]
    assert list(found["short"].items()) == [
        (("2.4.1", "2.5.0"), "-"),
        (("2.9.0", "2.10.0"), "within default (12/12)"),
        (("2.10.0", "2.11.0"), "within default (12/12)"),
    ]
    assert found["good (3,000 passages)"][("2.9.0", "2.10.0")] == "-"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "bit-equal (12/12)"),
        ({"bit_equal": 11}, "within default (12/12)"),
        ({"bit_equal": 9, "default_match": 10}, "default 10/12, bnb 12/12"),
        (
            {"bit_equal": 0, "default_match": 0, "bnb_match": 2, "shapes_match": 11},
            "shapes 11/12, default 0/12, bnb 2/12",
        ),
        ({"total": 0, "gap": "2.0.1: unsupported"}, "2.0.1: unsupported"),
    ],
)
def test_a_row_in_words(tmp_path, row, expected):
    found = words(folder(tmp_path / "made", {"a": "2.0.1", "b": "2.1.0", **row}))

    assert found == {"good (3,000 passages)": {("2.0.1", "2.1.0"): expected}}


def test_tables_disagree_where_one_is_beyond_default_and_another_within_it(tmp_path):
    gap = {"a": "2.0.1", "b": "2.1.0", "total": 0, "shapes_match": 0, "default_match": 0, "gap": "2.0.1: unsupported"}
    within = {"a": "2.4.1", "b": "2.5.0", "bit_equal": 11}
    beyond = {"a": "2.6.0", "b": "2.7.0", "bit_equal": 0, "default_match": 2}
    made = folder(tmp_path / "made", gap, within, beyond)

    found = list(disagreements([read_headlines(made), read_headlines(ARTICLE)]))

    assert found == [
        "2.4.1 -> 2.5.0 is beyond default in article, and within it in good (3,000 passages).",
        "2.6.0 -> 2.7.0 is beyond default in good (3,000 passages), and within it in article.",
    ]


def test_two_tables_of_one_collection_have_names_of_their_own(tmp_path):
    step = {"a": "2.4.1", "b": "2.5.0"}

    found = words(folder(tmp_path / "one", step), folder(tmp_path / "two", step, device="cuda"))

    assert len(found) == 2


def test_the_command_prints_what_was_measured_and_exits_with_1_where_tables_disagree(tmp_path, capsys):
    beyond = folder(
        tmp_path / "made", {"a": "2.6.0", "b": "2.7.0", "bit_equal": 2, "default_match": 2}, device="cuda [red]H100\x1b"
    )

    code, out, _ = run(capsys, "headlines", beyond, ARTICLE, "--markdown")

    assert code == 1
    assert "| 2.6.0 -\\> 2.7.0 | default 2/12, bnb 12/12 | within default (12/12) |" in out
    assert "cuda [red]H100\\x1b, checkpoint ck (4567)" in out
    assert 'article: V. Bakshi, "Re-evaluating' in out


def test_the_command_exits_with_0_where_tables_agree(tmp_path, capsys):
    equal = folder(tmp_path / "made", {"a": "2.6.0", "b": "2.7.0"})

    code, out, _ = run(capsys, "headlines", equal, ARTICLE)

    assert code == 0
    assert "No step is beyond default in one table and within it in another." in out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.csv", None, "does not exist"),
        ("notes.txt", "a,b", "neither a folder of tables"),
        ("empty.csv", "", r"empty\.csv cannot be read"),
        ("less.csv", "a,b,total\n", "no column `shapes_match`"),
        ("odd.csv", HEAD + "2.0,two words,12,12,12,12\n", "neither a version nor a count"),
        ("part.csv", HEAD + "2.0.0,2.0.1,12,12,1.5,12\n", "neither a version nor a count"),
        ("twice.csv", HEAD + "2.0.0,2.0.1,12,12,12,12\n" * 2, r"two rows for 2\.0\.0 -> 2\.0\.1"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(UsageError, match=message):
        read_headlines(tmp_path / name)


def test_a_folder_without_tables_and_a_table_of_another_schema_are_named(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"none holds no tables \(consecutive\.parquet\); name a folder"):
        read_headlines(tmp_path / "none")

    other = folder(tmp_path / "other", {"a": "2.4.1", "b": "2.5.0"}, harness_schema="99")
    with pytest.raises(UsageError, match="not a table of this harness"):
        read_headlines(other)


def test_a_folder_of_folders_of_tables_names_those(tmp_path, capsys):
    """As `harness headlines results` does."""
    folder(tmp_path / "one", {"a": "2.4.1", "b": "2.5.0"})
    folder(tmp_path / "two", {"a": "2.4.1", "b": "2.5.0"})
    (tmp_path / "other").mkdir()

    code, _, err = run(capsys, "headlines", tmp_path)

    assert code == 2
    assert (
        f"holds no tables itself, but 2 folders of tables; name those: {tmp_path / 'one'}, {tmp_path / 'two'}." in err
    )
    assert "rrno" not in err


def test_a_row_without_a_count_was_not_measured_and_agrees_with_everything(tmp_path):
    head = "a,b,total,shapes_match,default_match,bnb_match\n"
    (tmp_path / "some.csv").write_text(head + "2.7.1,2.8.0,,,,\n2.7.0,2.7.1,12,12,,12\n")
    (tmp_path / "all.csv").write_text(head + "2.7.1,2.8.0,12,12,11,12\n2.7.0,2.7.1,12,12,12,12\n")
    tables = [read_headlines(tmp_path / name) for name in ("some.csv", "all.csv")]

    titles, rows = side_by_side(tables)
    assert {words[titles.index("some")] for words in rows.values()} == {"not measured"}
    assert list(disagreements(tables)) == []


def test_tables_of_one_collection_are_told_apart_by_where_they_are(tmp_path):
    """One size on two devices: neither the same title twice nor a number that says nothing."""
    tables = [folder(tmp_path / name, {"a": "2.4.1", "b": "2.5.0"}, device=name) for name in ("cpu-one", "cuda-two")]

    assert list(words(*tables)) == ["good (3,000 passages) in cpu-one", "good (3,000 passages) in cuda-two"]
