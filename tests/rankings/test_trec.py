"""TREC's files: what is read is what stands there, and what is wrong is one sentence with file and line."""

from __future__ import annotations

import gzip
import time

import numpy as np
import pytest

from harness.errors import UnreadableTensor, UsageError
from harness.rankings.run import Run
from harness.rankings.trec import read_run, write_run
from tests.support.runs import run_of

GOOD = ["q1 Q0 d1 1 9.5 me", "q1 Q0 d2 2 9.5 me", "q2 Q0 d1 1 3 me"]


def written(tmp_path, *lines: str, name: str = "a.run"):
    path = tmp_path / name
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def lists(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {qid: list(zip(*run.listed(place), strict=True)) for place, qid in enumerate(run.qids)}


def test_a_run_is_read_as_it_stands(tmp_path):
    run = read_run(written(tmp_path, *GOOD))

    assert run.name == "a.run"
    assert lists(run) == {"q1": [("d1", 9.5), ("d2", 9.5)], "q2": [("d1", 3.0)]}


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([GOOD[1], GOOD[2], GOOD[0]], id="lines in any order"),
        pytest.param([line.replace(" ", "\t") for line in GOOD], id="tabs"),
        pytest.param([f"  {line.replace(' ', '   ')}\r" for line in GOOD], id="spaces and CR LF"),
        pytest.param(["", *GOOD, ""], id="empty lines"),
        pytest.param([f"\ufeff{GOOD[0]}", *GOOD[1:]], id="a byte order mark"),
        pytest.param(["q1 Q0 d1 0 9.5 me", "q1 Q0 d2 1 9.5 me", GOOD[2]], id="ranks from 0"),
    ],
)
def test_forms_of_the_same_run(tmp_path, lines):
    assert lists(read_run(written(tmp_path, *lines))) == lists(read_run(written(tmp_path, *GOOD)))


def test_the_order_is_the_ranks_and_not_the_scores(tmp_path):
    run = read_run(written(tmp_path, "q Q0 b 2 9 x", "q Q0 a 1 1 x", "q Q0 c 3 5 x"))

    assert run.listed(0) == (["a", "b", "c"], [1.0, 9.0, 5.0])
    assert run.rising == 1


def test_a_run_compressed_with_gzip_is_read_whatever_its_name(tmp_path):
    path = written(tmp_path, *GOOD)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(path.read_bytes()))

    assert lists(read_run(packed)) == lists(read_run(path))


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ([GOOD[0], "q1 Q0 d3 3 9 me"], 2, "after rank 1"),
        (["q1 Q0 d1 2 9 me"], 1, "first rank of query q1 is 2"),
        (["q1 Q0 d1 -1 9 me", "q1 Q0 d2 0 9 me"], 1, "first rank"),
        ([GOOD[0], "q1 Q0 d2 1 9 me"], 2, "rank 1 twice (also in line 1)"),
        ([GOOD[0], "", "q1 Q0 d1 2 9 me"], 3, "has the passage d1 twice (also in line 1)"),
        ([GOOD[0], "q1 Q0 d2 2 nan me"], 2, "the score is nan"),
        ([GOOD[0], "q1 Q0 d2 2 inf me"], 2, "the score is inf"),
        ([GOOD[0], "q1 Q0 d2 2 high me"], 2, "'high' is not a score"),
        ([GOOD[0], "q1 Q0 d2 second 9 me"], 2, "'second' is not a rank"),
        ([GOOD[0], "q1 Q0 d2 1.5 9 me"], 2, "'1.5' is not a rank"),
        ([GOOD[0], f"q1 Q0 d2 {'9' * 30} 9 me"], 2, "is not a rank"),
        ([GOOD[0], "q1 Q0 d2 2 9"], 2, "5 columns"),
        ([GOOD[0], "q1 Q0 d2 2 9 my tag"], 2, "7 columns"),
        ([GOOD[0], "q1"], 2, "1 column,"),
    ],
)
def test_what_is_wrong_with_a_run_is_one_sentence_with_its_line(tmp_path, lines, line, words):
    path = written(tmp_path, *lines)

    with pytest.raises(UsageError) as caught:
        read_run(path)

    assert f"{path}, line {line}: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_no_run(tmp_path, content):
    path = tmp_path / "a.run"
    path.write_bytes(content)

    with pytest.raises(UsageError, match=r"is empty; each line of it should be"):
        read_run(path)


def test_what_is_no_text_is_told_from_what_is_no_file(tmp_path):
    path = tmp_path / "a.run"
    path.write_bytes(b"q1 Q0 d1 1 9 me\nq1 Q0 \xff\xfe 2 8 me\n")
    with pytest.raises(UsageError, match=r"line 2: a name is not valid UTF-8"):
        read_run(path)
    path.write_bytes(gzip.compress(b"".join(b"q Q0 d%d %d 9 me\n" % (n, n) for n in range(1, 999)))[:-40])
    with pytest.raises(UsageError, match="gzip stream is damaged or cut short"):
        read_run(path)
    with pytest.raises(UnreadableTensor, match="cannot be read"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UnreadableTensor, match="cannot be read"):
        read_run(tmp_path)


def test_what_is_written_is_read_again_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    run = run_of(
        "2.8.0 on 2.7.1",
        {f"q{n}": [(f"d{d}", float(score)) for d, score in enumerate(rng.standard_normal(n + 1))] for n in range(5)},
    )
    path = tmp_path / "out.run"

    write_run(path, run)

    assert lists(read_run(path)) == lists(run)
    assert {line.split()[5] for line in path.read_text().splitlines()} == {"2.8.0-on-2.7.1"}
    assert [line.split()[3] for line in path.read_text().splitlines()[:3]] == ["1", "1", "2"]


@pytest.mark.parametrize("lists", [{"q 1": [("d", 1.0)]}, {"q": [("d\t1", 1.0)]}, {"q": [("", 1.0)]}])
def test_a_name_that_the_format_cannot_hold_is_not_written(tmp_path, lists):
    path = tmp_path / "out.run"

    with pytest.raises(UsageError, match="hold no spaces"):
        write_run(path, run_of("a", lists))

    assert not path.exists()


@pytest.mark.slow
def test_a_large_run_is_read_in_a_few_seconds_of_the_processor(tmp_path):
    path = tmp_path / "large.run"
    with path.open("w") as file:
        for query in range(500):
            file.writelines(f"query-{query} Q0 passage-{d * 7 % 69199} {d + 1} {30 - d / 64} me\n" for d in range(1000))
    start = time.process_time()

    run = read_run(path)

    assert run.passages.size == 500_000
    assert time.process_time() - start < 5
