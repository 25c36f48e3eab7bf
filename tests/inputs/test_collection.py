"""Collections: what a user's file holds is what a worker gets, and what is wrong with it is one sentence."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InfrastructureError, UsageError
from harness.inputs.collection import load_embedded, load_local
from harness.inputs.passages import Passages, write_jsonl
from harness.inputs.recipe import scale_up

BUSY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
AWKWARD = [
    "tab\there",
    "line\nbreak\r\nand return\r",
    "separator\u2028paragraph\u2029next\x85",
    "\x00\x1f\x7f",
    "caf\u00e9 \U0001f600",
    '"quoted" \\ slash',
]


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def passages(texts: list[str], name: str = "small") -> Passages:
    return Passages([str(i) for i in range(len(texts))], texts, name, {"kind": "local", "rows": len(texts)})


# --- Reading --------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_passages(tmp_path):
    ids, texts = ["a", "b", "c"], ["First text.", "Second, caf\u00e9.", "Third"]
    write_parquet(tmp_path / "c.parquet", _id=ids, text=texts, title=["", "", ""])
    lines = "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in zip(ids, texts, strict=True))
    (tmp_path / "c.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "c.ndjson").write_text(lines.rstrip("\n"), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = "".join(f"{i}\t{t}\n" for i, t in [("_id", "text"), *zip(ids, texts, strict=True)])
    (tmp_path / "c.tsv").write_text(table, encoding="utf-8-sig")
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(table.replace("\n", "\r\n").encode()))

    loaded = [load_local(path) for path in sorted(tmp_path.iterdir())]

    assert len(loaded) == 6
    assert {tuple(p.ids) for p in loaded} == {tuple(ids)}
    assert {tuple(p.texts) for p in loaded} == {tuple(texts)}
    assert len({p.digest for p in loaded}) == 1
    assert {p.name for p in loaded} == {"c"}
    assert not [p for p in loaded if str(tmp_path) in json.dumps(p.source)]


def test_colberts_own_tsv_has_numbers_and_puts_the_title_first(tmp_path):
    (tmp_path / "c.tsv").write_text("0\tone\n1\ttwo\tTitle\n")

    loaded = load_local(tmp_path / "c.tsv")

    assert loaded.ids == ["0", "1"]
    assert loaded.texts == ["one", "Title | two"]


def test_rows_are_numbered_where_there_are_no_ids(tmp_path):
    write_parquet(tmp_path / "c.parquet", text=["x", "y"])
    (tmp_path / "c.jsonl").write_text('"x"\n{"text": "y"}\n')

    assert load_local(tmp_path / "c.parquet").ids == ["0", "1"]
    assert load_local(tmp_path / "c.jsonl").texts == ["x", "y"]
    assert load_local(tmp_path / "c.parquet", id_column=None).ids == ["0", "1"]


def test_other_columns_can_be_named(tmp_path):
    write_parquet(tmp_path / "c.parquet", key=[7, 8], body=["x", "y"])

    loaded = load_local(tmp_path / "c.parquet", text_column="body", id_column="key")

    assert (loaded.ids, loaded.texts) == (["7", "8"], ["x", "y"])


def test_a_limit_takes_the_first_and_never_looks_at_the_rest(tmp_path):
    (tmp_path / "c.jsonl").write_text('"one"\n"two"\nnot json\n')

    assert load_local(tmp_path / "c.jsonl", limit=2).texts == ["one", "two"]
    with pytest.raises(UsageError, match="line 3 is not valid JSON"):
        load_local(tmp_path / "c.jsonl", limit=3)
    with pytest.raises(UsageError, match="limit of 0"):
        load_local(tmp_path / "c.jsonl", limit=0)


def test_blank_passages_are_kept_where_they_are_allowed(tmp_path):
    write_parquet(tmp_path / "c.parquet", text=["x", "", "\n"])

    assert load_local(tmp_path / "c.parquet", allow_blank=True).texts == ["x", "", "\n"]


# --- What is wrong --------------------------------------------------------------------------------------------------

PARQUET_CASES = [
    ({"passage": ["x"], "n": [1]}, ["no column text", "passage, n"]),
    ({"text": pa.array([], pa.string())}, ["empty"]),
    ({"text": ["x", None]}, ["field text", "row 2", "null"]),
    ({"text": ["x", "y", "  "]}, ["field text", "row 3", "blank"]),
    ({"text": [1, 2]}, ["field text", "row 1", "int"]),
    ({"text": ["x", "y"], "_id": ["a", "a"]}, ["'a'", "row 1", "row 2"]),
    ({"text": ["x", "y"], "_id": ["a", None]}, ["_id", "row 2", "null"]),
    ({"text": ["x"], "_id": [0.5]}, ["id in row 1", "float"]),
    ({"text": pa.array([b"\xff"]).view(pa.binary()).cast(pa.string(), safe=False)}, ["UTF-8"]),
]


@pytest.mark.parametrize(("columns", "words"), PARQUET_CASES)
def test_a_bad_parquet_row_is_named(tmp_path, columns, words):
    check(write_parquet(tmp_path / "c.parquet", **columns), words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.csv", b"text\nx\n", [".csv", ".parquet, .tsv, .jsonl"]),
        ("c", b"x", ["(none)", ".parquet"]),
        ("c.parquet.gz", b"x", [".gz", ".parquet"]),
        ("c.parquet", b"PAR1 cut short", ["not a readable Parquet"]),
        ("c.parquet", b"", ["not a readable Parquet"]),
        ("c.jsonl", b"", ["empty"]),
        ("c.tsv", b"", ["empty"]),
        ("c.tsv", b"_id\ttext\n", ["empty"]),
        ("c.jsonl", b'{"body": "x", "n": 1}\n', ["no column text", "body, n"]),
        ("c.jsonl", b'"x"\n{"text": \n', ["line 2", "not valid JSON"]),
        ("c.jsonl", b'"x"\n[1]\n', ["line 2", "list"]),
        ("c.jsonl", b'{"text": "x"}\n{"body": "y"}\n', ["line 2", "null or missing"]),
        ("c.jsonl", b'{"text": "x"}\n{"text": 3}\n', ["line 2", "int"]),
        ("c.jsonl", b'{"text": "\\ud800"}\n', ["line 1", "surrogate"]),
        ("c.jsonl", b'{"text": "x", "_id": 1}\n{"text": "y"}\n', ["line 2", "no _id"]),
        ("c.jsonl", b'{"text": "x", "_id": 1}\n{"text": "y", "_id": "1"}\n', ["'1'", "line 1", "line 2"]),
        ("c.jsonl", b'"x"\n"caf\xe9"\n', ["line 2", "not valid UTF-8"]),
        ("c.jsonl", b"[" * 100_000, ["line 1", "not valid JSON"]),
        ("c.jsonl.gz", b"no gzip", ["gzip", "damaged"]),
        ("c.jsonl.gz", gzip.compress(b'"x"\n' * 1000, mtime=0)[:-20], ["gzip", "cut short"]),
        ("c.tsv", b"0\tx\nno tab\n", ["line 2", "pid<TAB>text"]),
        ("c.tsv", b"id\tpassage\n0\tx\n", ["no column text", "id, passage"]),
        ("c.tsv", b"_id\ttext\na\tx\ty\n", ["line 2", "3 fields"]),
        ("c.tsv", b"0\tx\n1\t \n", ["line 2", "blank"]),
        ("c.tsv", b"0\tx\n0\ty\n", ["'0'", "line 2"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_sentence_with_its_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)

    check(tmp_path / name, words)


def check(path: Path, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_local(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert all(word in message for word in words), message


def test_a_truncated_parquet_is_named(tmp_path):
    path = write_parquet(tmp_path / "c.parquet", text=[f"text {i}" for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-50])

    check(path, ["not a readable Parquet", "cut short"])


def test_a_parquet_with_damaged_pages_is_named(tmp_path):
    path = write_parquet(tmp_path / "c.parquet", text=[f"text {i}" for i in range(1000)])
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 200 + content[204:])

    check(path, ["not a readable Parquet"])


def test_a_missing_file_a_folder_and_a_missing_id_column(tmp_path):
    (tmp_path / "d.tsv").mkdir()
    write_parquet(tmp_path / "c.parquet", text=["x"])

    with pytest.raises(UsageError, match="does not exist"):
        load_local(tmp_path / "no.tsv")
    with pytest.raises(UsageError, match="is not a file"):
        load_local(tmp_path / "d.tsv")
    with pytest.raises(UsageError, match="no column key for ids"):
        load_local(tmp_path / "c.parquet", id_column="key")


# --- The digest -----------------------------------------------------------------------------------------------------


def test_the_digest_depends_on_texts_ids_and_order_and_on_nothing_else():
    base = Passages(["a", "b"], ["x", "y"], "n", {})
    others = [
        Passages(["b", "a"], ["x", "y"], "n", {}),
        Passages(["a", "b"], ["y", "x"], "n", {}),
        Passages(["a", "b"], ["xy", ""], "n", {}),
        Passages(["ax", "b"], ["", "y"], "n", {}),
        Passages(["a"], ["x"], "n", {}),
    ]

    assert len({p.digest for p in [base, *others]}) == 6
    assert Passages(["a", "b"], ["x", "y"], "other", {"kind": "hub"}).digest == base.digest


# --- To the worker --------------------------------------------------------------------------------------------------


def test_awkward_texts_reach_the_worker_unchanged_however_lines_are_split(tmp_path):
    write_jsonl(passages(AWKWARD), tmp_path / "out" / "p.jsonl")
    content = (tmp_path / "out" / "p.jsonl").read_text("utf-8")

    assert [json.loads(line) for line in content.splitlines()] == AWKWARD
    assert [json.loads(line) for line in content.split("\n")[:-1]] == AWKWARD


@settings(max_examples=50, deadline=None, suppress_health_check=BUSY)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1, max_size=20))
def test_what_is_written_for_a_worker_reads_back(tmp_path, texts):
    write_jsonl(passages(texts), tmp_path / "p.jsonl")

    assert load_local(tmp_path / "p.jsonl").texts == texts


def test_a_write_that_fails_leaves_the_old_file_and_no_scraps(tmp_path, monkeypatch):
    target = tmp_path / "p.jsonl"
    write_jsonl(passages(["old"]), target)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InfrastructureError, match=r"p\.jsonl: .*No space left on device; free some space"):
        write_jsonl(passages(["new"]), target)

    assert json.loads(target.read_text()) == "old"
    assert list(tmp_path.iterdir()) == [target]


# --- Scaling up -----------------------------------------------------------------------------------------------------


def test_scaling_keeps_the_real_ones_and_their_lengths_and_makes_distinct_ones():
    real = load_embedded(200)

    scaled = scale_up(real, 1000, seed=3)

    assert (scaled.ids[:200], scaled.texts[:200]) == (real.ids, real.texts)
    assert len(set(scaled.texts)) == len(set(scaled.ids)) == 1000
    # 200 real and 4 rounds over them: every length comes up 5 times as often, but for texts of a word or two, which can
    # only be made new by growing.
    before = Counter(len(text.split()) for text in real.texts)
    after = Counter(len(text.split()) for text in scaled.texts)
    assert all(after[length] == 5 * count for length, count in before.items() if length > 4)
    assert scaled.name == "scaled-from-embedded"
    assert (scaled.source["kind"], scaled.source["real_rows"], scaled.source["from_kind"]) == (
        "scaled",
        200,
        "embedded",
    )


def test_scaling_depends_on_its_seed_alone_and_grows_by_prefix():
    real = load_embedded(50)

    one, same, other = scale_up(real, 300, 1), scale_up(real, 300, 1), scale_up(real, 300, 2)

    assert one.digest == same.digest != other.digest
    assert scale_up(real, 120, 1).texts == one.texts[:120]


def test_scaling_the_barest_collection_works_as_far_as_it_goes_and_ends():
    scaled = scale_up(passages(["x", "x", ""]), 12, 1)

    assert len(set(scaled.texts[3:])) == 9
    assert all(scaled.texts[3:])
    with pytest.raises(UsageError, match="too few different words"):
        scale_up(passages(["x", "x", ""]), 100, 1)
    with pytest.raises(UsageError, match="too few different words"):
        scale_up(passages(["", " "]), 3, 1)


def test_scaling_down_is_refused_and_scaling_to_the_same_is_nothing():
    real = passages(["x", "y"])

    assert scale_up(real, 2, 1).texts == real.texts
    with pytest.raises(UsageError, match="use --limit"):
        scale_up(real, 1, 1)
