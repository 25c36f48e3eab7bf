"""`harness rankings` from files: its exit codes, its JSON, and nothing that a name can do to a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import run

A = "1 Q0 x 1 3 t\n1 Q0 y 2 2 t\n1 Q0 z 3 2 t\n"
TIES = "1 Q0 x 1 3 t\n1 Q0 z 2 2 t\n1 Q0 y 3 2 t\n"
MOVED = "1 Q0 y 1 3 t\n1 Q0 x 2 2 t\n1 Q0 z 3 2 t\n"


def files(tmp_path: Path, a: str, b: str) -> tuple[Path, Path]:
    paths = tmp_path / "a.run", tmp_path / "b.run"
    for path, text in zip(paths, (a, b), strict=True):
        path.write_text(text)
    return paths


@pytest.mark.parametrize(
    ("other", "code"),
    [(A, 0), (TIES, 0), (MOVED, 1), (f"{A}2 Q0 x 1 3 t\n", 2), (f"{MOVED}2 Q0 x 1 3 t\n", 1), ("", 2)],
)
def test_the_exit_code_says_what_was_found(tmp_path, capsys, other, code):
    assert run(capsys, "rankings", *files(tmp_path, A, other))[0] == code


def test_judgements_decide_where_lists_differ(tmp_path, capsys):
    """Forty queries, one of which has another list in which what is relevant keeps its place."""
    a, b = ("".join(text.replace("1 Q0", f"{q} Q0") for q in range(40)) for text in (A, A))
    b = b.replace("7 Q0 y 2", "7 Q0 new 2", 1)
    qrels = tmp_path / "qrels"
    qrels.write_text("".join(f"{q} 0 x 1\n" for q in range(40)))
    paths = files(tmp_path, a, b)

    assert run(capsys, "rankings", *paths)[0] == 1
    code, out, _ = run(capsys, "rankings", *paths, "--qrels", qrels, "--json")

    found = json.loads(out)
    assert code == 0
    assert found["identical"] == 39 / 40
    assert found["measures"]["nDCG@10"]["ci"] == [0, 0]
    assert found["measures"]["nDCG@10"]["equivalent"] is True


def test_depths_of_the_overlap_can_be_given(tmp_path, capsys):
    _, out, _ = run(capsys, "rankings", *files(tmp_path, A, MOVED), "--json", "--k", "2", "--k", "1")

    assert json.loads(out)["overlap"] == {"1": 0, "2": 1}


@pytest.mark.parametrize(
    ("qrels", "words"),
    [("1 0 elsewhere 1\n", "the run's own names"), ("2 0 x 1\n", "for none of the queries"), ("1 0 x\n", "four")],
)
def test_judgements_that_are_not_of_these_runs_are_one_sentence(tmp_path, capsys, qrels, words):
    (tmp_path / "qrels").write_text(qrels)

    code, out, err = run(capsys, "rankings", *files(tmp_path, A, MOVED), "--qrels", tmp_path / "qrels")

    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_names_from_a_file_do_nothing_to_a_terminal(tmp_path, capsys):
    evil = "\x1b[2J\u202ex"
    texts = [text.replace("Q0 y", f"Q0 {evil}").replace("1 Q0", f"{evil} Q0") for text in (A, MOVED)]

    for arguments in (files(tmp_path, *texts), files(tmp_path, texts[0], texts[0] * 2)):
        _, out, err = run(capsys, "rankings", *arguments)
        assert all(letter == "\n" or letter.isprintable() for letter in out + err)
        assert "x1b[2J" in out + err
