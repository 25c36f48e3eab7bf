"""Queries and qrels: where they come from, what is wrong with them, and whether they fit a collection."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import UsageError
from harness.home import Home
from harness.inputs.collection import load_embedded
from harness.inputs.loaders import load_queries
from harness.inputs.matrix import Matrix
from harness.inputs.matrix_file import load_matrix, parse_matrix
from harness.inputs.passages import Passages
from harness.inputs.queries import Qrels, Queries, embedded_queries, fitting, local_qrels, local_queries
from harness.inputs.recipe import known_items

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
PASSAGES = Passages(["a", "b", "c"], ["one", "two", "three"], "three", {})
QUERIES = Queries(["q1", "q2"], ["what is one?", "what is two?"], "two", {})


def load(matrix: Matrix, folder: Path, collection: str | None, **more) -> tuple[Queries, Qrels | None]:
    passages = more.pop("passages", PASSAGES)
    return load_queries(matrix, folder, Home(folder / "home"), collection, passages, **more)


def write_queries(folder: Path) -> list[Path]:
    """The same two queries in every form that a file may have."""
    rows = [{"_id": "q1", "text": "what is one?"}, {"_id": "q2", "text": "what is two?"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "q.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "q.jsonl").write_text(lines)
    (folder / "q.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "q.tsv").write_text("_id\ttext\nq1\twhat is one?\nq2\twhat is two?\n")
    return sorted(folder.glob("q.*"))


def test_every_format_gives_the_same_queries_and_a_digest_that_is_not_that_of_passages(tmp_path):
    loaded = [local_queries(path) for path in write_queries(tmp_path)]

    assert len({one.digest for one in loaded}) == 1
    assert loaded[0].ids == ["q1", "q2"]
    assert loaded[0].record() == {"name": "q", "digest": QUERIES.digest, "queries": 2}
    assert Passages(QUERIES.ids, QUERIES.texts, "x", {}).digest != QUERIES.digest
    assert local_queries(tmp_path / "q.tsv", 1).texts == ["what is one?"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"_id": "q", "text": "one"}\n{"_id": "q", "text": "two"}\n', ["'q'", "line 1", "line 2", "distinct"]),
        ('{"_id": "q", "text": " "}\n', ["line 1", "blank"]),
        ('{"_id": "q", "text": null}\n', ["line 1", "null"]),
        ("", ["empty", "query"]),
    ],
)
def test_what_is_no_query_is_one_sentence_with_its_line(tmp_path, content, words):
    path = tmp_path / "queries.jsonl"
    path.write_text(content)

    with pytest.raises(UsageError) as caught:
        local_queries(path)

    assert str(caught.value).startswith(str(path))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_query_file_that_is_not_there_is_called_that(tmp_path):
    with pytest.raises(UsageError, match="this query file does not exist"):
        local_queries(tmp_path / "no.jsonl")


# ---- qrels


def write_qrels(folder: Path) -> list[Path]:
    rows = [{"query_id": "q1", "corpus_id": "a", "score": 1}, {"query_id": "q2", "corpus_id": "b", "score": 2}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "qrels.parquet")
    (folder / "qrels.txt").write_text("q1 0 a 1\nq2\t0\tb\t2\n")
    return sorted(folder.glob("qrels.*"))


def test_both_formats_give_the_same_qrels(tmp_path):
    found = [local_qrels(path).grades for path in write_qrels(tmp_path)]

    assert found[0] == found[1] == {"q1": {"a": 1}, "q2": {"b": 2}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("q1 0 a\n", ["line 1", "3 fields", "QUERY 0 PASSAGE GRADE"]),
        ("q1 0 a yes\n", ["line 1", "'yes'", "whole number"]),
        ("q1 0 a 1\nq1 0 a 2\n", ["line 2", "'a'", "'q1'", "differently"]),
        ("", ["empty"]),
    ],
)
def test_what_is_no_judgement_is_one_sentence_with_its_line(tmp_path, content, words):
    path = tmp_path / "qrels.txt"
    path.write_text(content)

    with pytest.raises(UsageError) as caught:
        local_qrels(path)

    assert str(caught.value).startswith(str(path))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"query_id": ["q"], "corpus_id": ["a"]}, ["no column score", "query_id, corpus_id, score"]),
        ({"query_id": ["q"], "corpus_id": ["a"], "score": [0.5]}, ["row 1", "0.5", "whole number"]),
        ({"query_id": ["q"], "corpus_id": [None], "score": [1]}, ["row 1", "id"]),
    ],
)
def test_bad_parquet_qrels_are_one_sentence(tmp_path, columns, words):
    pq.write_table(pa.table(columns), tmp_path / "qrels.parquet")

    with pytest.raises(UsageError) as caught:
        local_qrels(tmp_path / "qrels.parquet")

    assert all(word in str(caught.value) for word in words), caught.value


def test_qrels_of_more_queries_than_are_searched_are_cut_to_those():
    found = fitting(Qrels("all", {"q1": {"a": 1}, "other": {"nowhere": 1}}), QUERIES, PASSAGES, whole=True)

    assert found.grades == {"q1": {"a": 1}}


def test_qrels_without_a_matching_query_are_refused():
    with pytest.raises(UsageError, match="none of its 1 judged queries is in two"):
        fitting(Qrels("all", {"other": {"a": 1}}), QUERIES, PASSAGES, whole=True)


def test_a_relevant_passage_that_the_whole_collection_lacks_is_refused_and_that_a_part_lacks_is_left_out():
    qrels = Qrels("some", {"q1": {"a": 1, "z": 1}, "q2": {"z": 1}})

    with pytest.raises(UsageError, match="passage 'z', which is relevant to the query 'q1', is not in the collection"):
        fitting(qrels, QUERIES, PASSAGES, whole=True)
    assert fitting(qrels, QUERIES, PASSAGES, whole=False).grades == {"q1": {"a": 1}}


def test_a_passage_that_was_judged_and_is_not_relevant_may_be_missing():
    found = fitting(Qrels("some", {"q1": {"a": 1, "z": 0}}), QUERIES, PASSAGES, whole=True)

    assert found.grades == {"q1": {"a": 1}}


# ---- known items


def test_a_known_item_s_words_are_its_passage_s_and_it_alone_is_relevant():
    passages = load_embedded(200)
    queries, qrels = embedded_queries(passages, 50)

    assert len(queries) == len(set(queries.texts)) == 50
    for qid, text in zip(queries.ids, queries.texts, strict=True):
        ((passage, grade),) = qrels.grades[qid].items()
        assert grade == 1
        words = iter(passages.texts[passages.ids.index(passage)].replace("(", " ").split())
        assert all(any(word in other for other in words) for word in text.split())
        assert len(text.split()) >= 4
    assert len({passage for known in qrels.grades.values() for passage in known}) == 50


def test_the_recipe_depends_on_its_seed_and_on_the_passages_alone():
    texts = load_embedded(60).texts

    assert known_items(texts, 10) == known_items(texts, 20)[:10] == known_items(texts, 10)
    assert known_items(texts, 10, seed=1) != known_items(texts, 10)


def test_passages_without_words_make_no_queries():
    with pytest.raises(UsageError, match="--queries FILE"):
        embedded_queries(PASSAGES, 5)


# ---- which are meant


def test_the_embedded_collection_brings_its_own(tmp_path):
    queries, qrels = load(MATRIX, tmp_path, "embedded", passages=load_embedded(100), limit=7)

    assert len(queries) == 7
    assert qrels is not None
    assert set(qrels.grades) == set(queries.ids)


def test_a_local_collection_names_its_own_in_the_matrix_and_the_command_line_names_others(tmp_path):
    write_queries(tmp_path)
    write_qrels(tmp_path)
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    mine = "collections:\n  mine: {source: local, path: c.tsv, queries: q.tsv, qrels: qrels.txt}\n"
    matrix = parse_matrix(text.replace("collections:\n", mine, 1))

    queries, qrels = load(matrix, tmp_path, "mine")
    assert (queries.ids, qrels and qrels.grades) == (["q1", "q2"], {"q1": {"a": 1}, "q2": {"b": 2}})

    (tmp_path / "other.txt").write_text("q2 0 c 1\n")
    assert load(matrix, tmp_path, "mine", qrels=str(tmp_path / "other.txt"))[1] == Qrels(
        str(tmp_path / "other.txt"), {"q2": {"c": 1}}
    )
    # The collection's judgements are not of queries that it does not know.
    assert load(matrix, tmp_path, "mine", queries=str(tmp_path / "q.jsonl"))[1] is None


def test_a_collection_without_queries_says_how_to_give_some(tmp_path):
    with pytest.raises(UsageError, match=r"passages\.parquet has no queries: pass --queries FILE"):
        load(MATRIX, tmp_path, "passages.parquet")
