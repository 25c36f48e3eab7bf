"""docs/querying.md: each question gives the same answer in pandas and in DuckDB, over the published tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "querying.md").read_text(encoding="utf-8")
SETUP = re.findall(r"```python setup\n(.*?)```", PAGE, re.DOTALL)[0]
QUESTIONS = re.findall(r"^## (.*?\?)\n\n```python\n(.*?)```\n\n```sql\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)


def plain(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Rows without order and without what only one of the two tools says otherwise."""

    def word(value: Any) -> str:
        if value is None or value is pd.NA or value != value:  # noqa: PLR0124 - not a number
            return "-"
        return f"{float(value):.9g}" if isinstance(value, (bool, int, float)) or hasattr(value, "item") else str(value)

    return sorted(tuple(map(word, row)) for row in frame.itertuples(index=False))


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(ROOT)


def in_pandas(text: str) -> pd.DataFrame:
    names: dict[str, Any] = {}
    exec(SETUP + text, names)
    found = names["answer"]
    assert isinstance(found, pd.DataFrame)
    return found


def test_there_are_seven_questions():
    assert len(QUESTIONS) == 7
    assert len(re.findall(r"^```sql", PAGE, re.MULTILINE)) == 7


@pytest.mark.parametrize(("question", "python", "sql"), QUESTIONS, ids=[one[0] for one in QUESTIONS])
def test_both_tools_give_the_same_answer(question, python, sql):
    ours, theirs = in_pandas(python), duckdb.connect().execute(sql).df()

    assert list(ours.columns) == list(theirs.columns)
    assert len(ours) > 3
    assert plain(ours) == plain(theirs)


def answer(start: str) -> pd.DataFrame:
    return in_pandas(next(python for question, python, _ in QUESTIONS if question.startswith(start)))


def test_no_step_of_one_sweep_is_mixed_up_with_that_of_another():
    """What a question groups by tells every folder of tables from every other."""
    sweeps = answer("Must I")[["device", "collection", "passages", "checkpoint", "job", "a", "b"]]
    rows = pd.concat(map(pd.read_parquet, (ROOT / "results").glob("*/consecutive.parquet")))

    assert not sweeps.duplicated().any()
    assert not rows.duplicated(list(sweeps.columns)).any()


def test_the_ulp_to_ask_for_are_never_more_than_those_between_the_values_and_mostly_far_less():
    rows = pd.concat(map(pd.read_parquet, (ROOT / "results").glob("*/comparisons.parquet")))
    final = rows[rows.final & rows.max_abs_ulp.notna()]

    assert final.max_ulp.max() > 1e9 > final.max_abs_ulp.max()
    assert (final.max_abs_ulp <= final.max_ulp).all()


def test_every_step_that_readme_blames_cublas_for_is_blamed_on_it():
    rows = answer("Which package")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    steps = re.findall(r"\| ([\d.]+) -> ([\d.]+) \|.*cuBLAS [\d.]+ -> [\d.]+, not PyTorch", text)
    assert steps
    for a, b in steps:
        assert set(rows[(rows.a == a) & (rows.b == b)].blamed) == {"nvidia-cublas-cu12"}
