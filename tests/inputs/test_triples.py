"""Triples: read as ColBERT has them, drawn by the recipe, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.home import Home
from harness.inputs.collection import load_embedded
from harness.inputs.jobs import TrainJob
from harness.inputs.loaders import load_triples
from harness.inputs.matrix_file import load_matrix, parse_matrix
from harness.inputs.passages import Passages
from harness.inputs.queries import Qrels, Queries, embedded_queries
from harness.inputs.triples import Triples, check_job, drawn_triples, local_triples

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "matrix.yaml").read_text()
PASSAGES = Passages(["a", "b", "c", "2"], ["one", "two", "three", "four"], "four", {})
QUERIES = Queries(["q1", "7"], ["what is one?", "what is two?"], "two", {})


def read(folder: Path, *lines: object, wanted: int = 9, nway: int = 2) -> Triples:
    path = folder / "triples.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return local_triples(path, QUERIES, PASSAGES, wanted, nway)


# ---- from a file


def test_a_text_is_an_id_and_a_number_is_a_query_s_id_and_a_passage_s_row(tmp_path):
    found = read(tmp_path, ["q1", "b", "a"], [7, 0, 1], ["7", 3, "2"])

    assert found.rows == [(0, (1, 0)), (1, (0, 1)), (1, (3, 3))]
    assert found.scores is None
    assert list(found.lines()) == ["[0, 1, 0]\n", "[1, 0, 1]\n", "[1, 3, 3]\n"]


def test_scores_go_along_and_count(tmp_path):
    found = read(tmp_path, ["q1", ["b", 2.5], ["a", -1]], ["q1", ["c", 1], [0, 0.5]])

    assert found.scores == [(2.5, -1.0), (1.0, 0.5)]
    assert [json.loads(line) for line in found.lines()] == [[0, [1, 2.5], [0, -1.0]], [0, [2, 1.0], [0, 0.5]]]
    others = [
        read(tmp_path, ["q1", ["b", 2.5], ["a", -1]], ["q1", ["c", 1], [0, 0.25]]),
        read(tmp_path, ["q1", "b", "a"], ["q1", "c", 0]),
        read(tmp_path, ["q1", ["b", 2.5], ["a", -1]]),
        read(tmp_path, ["7", ["b", 2.5], ["a", -1]], ["q1", ["c", 1], [0, 0.5]]),
    ]
    assert len({one.digest for one in (found, *others)}) == 5


def test_only_what_is_trained_from_is_read(tmp_path):
    long = read(tmp_path, ["q1", "b", "a", "nowhere"], ["7", "a", "b"], "this is no line", wanted=2)
    short = read(tmp_path, ["q1", "b", "a"], ["7", "a", "b"], wanted=2)

    assert long.rows == short.rows
    assert long.digest == short.digest
    assert read(tmp_path, ["q1", "b", "a"], ["7", "a", "b"], wanted=1).digest != short.digest


def test_a_compressed_file_is_the_same(tmp_path):
    plain = read(tmp_path, ["q1", "b", "a"])
    (tmp_path / "triples.jsonl.gz").write_bytes(gzip.compress((tmp_path / "triples.jsonl").read_bytes()))
    packed = local_triples(tmp_path / "triples.jsonl.gz", QUERIES, PASSAGES, 9, 2)

    assert packed.record() == plain.record() == {"name": "triples", "digest": plain.digest, "triples": 1}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([["q1", "a", "b"], ["q9", "a", "b"]], ["line 2", "the query 'q9'", "not among the 2 of two"]),
        ([["q1", "a", "b"], ["q1", "a", "z"]], ["line 2", "the passage 'z'", "not in the collection four"]),
        ([["q1", 0, 4]], ["line 1", "the passage 4", "rows are 0 to 3"]),
        ([["q1", 0, -1]], ["line 1", "the passage -1", "rows are 0 to 3"]),
        ([["q1", 0, 2]], ["line 1", "the passage 2", "the id of row 3", "in quotes"]),
        ([["q1", "a"]], ["line 1", "1 passage", "nway is 2"]),
        ([[]], ["line 1", "no JSON list with a query"]),
        ([{"query": "q1"}], ["line 1", "no JSON list with a query"]),
        (["[1, 2"], ["line 1", "not valid JSON"]),
        ([["q1", ["a", 1], "b"]], ["line 1", "a score for some"]),
        ([["q1", "a", "b"], ["q1", ["a", 1], ["b", 0]]], ["line 2 has scores", "before it have none"]),
        ([["q1", ["a", 1], ["b", 0]], ["q1", "a", "b"]], ["line 2 has no scores", "before it have some"]),
        ([["q1", ["a"], ["b"]]], ["line 1", "0 scores"]),
        ([["q1", ["a", "1"], ["b", 2]]], ["line 1", "the score '1'", "finite number"]),
        (['["q1", ["a", NaN], ["b", 2]]'], ["line 1", "the score nan", "finite number"]),
        ([["q1", ["a", True], ["b", 2]]], ["line 1", "the score True"]),
        ([["q1", None, "b"]], ["line 1", "None for a passage"]),
        ([[1.5, "a", "b"]], ["line 1", "1.5 for a query"]),
        ([], ["empty", "[query, passage"]),
    ],
)
def test_what_is_no_triple_is_one_sentence_with_its_line(tmp_path, lines, words):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, *lines)

    assert str(caught.value).startswith(str(tmp_path / "triples.jsonl"))
    assert all(word in str(caught.value) for word in words), caught.value


# ---- drawn


def embedded(wanted: int, nway: int = 4) -> tuple[Triples, Queries, Passages, Qrels]:
    passages = load_embedded(60)
    queries, qrels = embedded_queries(passages, 8)
    return drawn_triples(qrels, queries, passages, wanted, nway), queries, passages, qrels


def test_a_drawn_triple_is_a_relevant_passage_and_others_that_are_not_and_queries_take_turns():
    triples, queries, passages, qrels = embedded(24)

    assert len(triples) == 24
    for query, (first, *others) in triples.rows:
        relevant = {one for one, grade in qrels.grades[queries.ids[query]].items() if grade > 0}
        assert passages.ids[first] in relevant
        assert not relevant & {passages.ids[one] for one in others}
        assert len({first, *others}) == 4
    rounds = [[query for query, _passages in triples.rows[start : start + 8]] for start in (0, 8, 16)]
    assert all(sorted(one) == list(range(8)) for one in rounds)
    assert rounds[0] != rounds[1]


def test_the_first_triples_are_the_same_however_many_are_wanted():
    many, few = embedded(20)[0], embedded(11)[0]

    assert many.rows[:11] == few.rows
    assert embedded(20)[0].digest == many.digest != few.digest
    assert embedded(20, nway=2)[0].digest != many.digest


def test_every_relevant_passage_has_its_turn_and_grade_0_is_not_relevant():
    qrels = Qrels("mine", {"q1": {"a": 1, "b": 2, "c": 0}, "q9": {"a": 1}})
    rows = drawn_triples(qrels, QUERIES, PASSAGES, 40, 3).rows

    assert {query for query, _passages in rows} == {0}
    assert {passages[0] for _query, passages in rows} == {0, 1}
    assert {frozenset(passages[1:]) for _query, passages in rows} == {frozenset((2, 3))}


@pytest.mark.parametrize(
    ("grades", "nway", "words"),
    [
        ({"q1": {"a": 0}}, 2, ["mine says of no query of two"]),
        ({"q9": {"a": 1}}, 2, ["mine says of no query of two"]),
        ({"q1": {"z": 1}}, 2, ["mine says of no query of two"]),
        (
            {"q1": {"a": 1}, "7": {"a": 1, "b": 1}},
            4,
            ["have 4 passages", "has 2 passages that are", "'7'"],
        ),
    ],
)
def test_judgements_that_give_no_triples_are_one_sentence(grades, nway, words):
    with pytest.raises(UsageError) as caught:
        drawn_triples(Qrels("mine", grades), QUERIES, PASSAGES, 5, nway)

    assert all(word in str(caught.value) for word in words), caught.value


# ---- which are meant, and whether they are enough


def load(folder: Path, job: TrainJob, text: str = TEXT, **more) -> Triples:
    collection = more.pop("collection", "embedded")
    qrels = more.pop("qrels", None)
    matrix = parse_matrix(text)
    return load_triples(matrix, folder, Home(folder / "home"), collection, PASSAGES, QUERIES, qrels, job, **more)


def test_a_file_goes_before_the_matrix_s_and_that_before_what_is_drawn(tmp_path):
    job = TrainJob(maxsteps=1, bsize=1)
    for name, first in (("one", "a"), ("two", "b")):
        (tmp_path / f"{name}.jsonl").write_text(f'["q1", "{first}", "c"]\n')
    local = "  mine: {source: local, path: c.jsonl, triples: two.jsonl}\n"
    text = TEXT.replace("collections:\n", f"collections:\n{local}")
    qrels = Qrels("mine", {"q1": {"c": 1}})

    named = load(tmp_path, job, text, collection="mine", qrels=qrels, triples=str(tmp_path / "one.jsonl"))
    assert [(one.name, one.rows[0][1][0]) for one in (
        named, load(tmp_path, job, text, collection="mine", qrels=qrels), load(tmp_path, job, text, qrels=qrels),
    )] == [("one", 0), ("two", 1), ("two-drawn", 2)]  # fmt: skip
    with pytest.raises(UsageError, match="no triples to train from, and no qrels of two"):
        load(tmp_path, job, text)


def test_too_few_triples_are_said_with_the_steps_that_they_are_enough_for(tmp_path):
    (tmp_path / "t.jsonl").write_text('["q1", "a", "b"]\n' * 5)
    triples = str(tmp_path / "t.jsonl")

    assert len(load(tmp_path, TrainJob(maxsteps=2, bsize=2), triples=triples)) == 4
    with pytest.raises(UsageError, match=r"t has 5 triples, and 3 steps of 2 need 6: .* \(--maxsteps 2\)"):
        load(tmp_path, TrainJob(maxsteps=3, bsize=2), triples=triples)
    with pytest.raises(UsageError, match="use a smaller --bsize"):
        load(tmp_path, TrainJob(maxsteps=1, bsize=6), triples=triples)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bsize": 6, "accumsteps": 4}, "bsize is 6 and accumsteps 4.*such as 3"),
        ({"bsize": 2, "accumsteps": 3}, "bsize is 2 and accumsteps 3.*such as 2"),
        ({"bsize": 5, "nranks": 2}, "bsize is 5 and nranks 2.*such as 6"),
        ({"bsize": 8, "nranks": 2, "accumsteps": 8}, "bsize / nranks is 4 and accumsteps 8.*such as 4"),
        ({"maxsteps": 3, "full_steps": [0, 3]}, "full_steps has 3.* are 0 to 2"),
    ],
)
def test_settings_that_do_not_go_together_are_one_sentence(settings, words):
    with pytest.raises(UsageError, match=words):
        check_job(TrainJob(**settings))
    check_job(TrainJob(bsize=6, accumsteps=3, full_steps=[0]))
    check_job(TrainJob(bsize=8, accumsteps=4, nranks=2))


@pytest.mark.parametrize(
    ("setting", "words"), [("nway: 1", "jobs.train.nway"), ("lr: 0", "jobs.train.lr"), ("bsize: 0", "jobs.train.bsize")]
)
def test_settings_that_cannot_be_are_said_with_their_line(setting, words):
    name = setting.partition(":")[0]
    lines = TEXT.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith(f"    {name}: ") and n > lines.index("  train:"))
    lines[place] = f"    {setting}"

    with pytest.raises(UsageError, match=f"line {place + 1}: {words}"):
        parse_matrix("\n".join(lines))


def test_the_matrix_s_training_is_colbert_ai_s_but_for_its_length():
    job = load_matrix(ROOT / "matrix.yaml").jobs.train

    assert job == TrainJob()
    assert job.decisive({"dim": 8, "query_maxlen": 32, "doc_maxlen": 220, "similarity": "cosine"}) == {
        "maxsteps": 50, "bsize": 4, "accumsteps": 1, "nway": 2, "lr": 3e-6, "warmup": None, "amp": None,
        "use_ib_negatives": False, "ignore_scores": False, "distillation_alpha": 1.0, "query_maxlen": 32,
        "doc_maxlen": 220, "similarity": "cosine", "dim": 8, "threads": 2, "native_extensions": False,
    }  # fmt: skip
