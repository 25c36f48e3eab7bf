"""Queries and the passages that answer them: where they come from, their digest, and whether they fit a collection."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import UsageError
from harness.inputs.passages import Passages, Texts, collect
from harness.inputs.readers import lines_of, open_parquet, reader, require_file
from harness.inputs.recipe import QUERIES_SEED, known_items
from harness.words import count

_COLUMNS = ("query_id", "corpus_id", "score")
_MOST = 1 << 31
Judged = tuple[str, Any, Any, Any]
"""Where it stands, the query's id, the passage's and the grade; not checked yet."""


@dataclass(frozen=True)
class Queries(Texts):
    """What is searched for, in the order in which it is."""

    NOUN: ClassVar[str] = "query"
    NOUNS: ClassVar[str] = "queries"


@dataclass(frozen=True)
class Qrels:
    """Which passages answer which queries, as somebody judged.

    Attributes:
        name: what sentences call it.
        grades: id of a query to the grade of each of its judged passages, by id; above 0 is relevant.
    """

    name: str
    grades: dict[str, dict[str, int]]


# ---- where they come from


def local_queries(path: Path, limit: int | None = None) -> Queries:
    """Read queries from a Parquet, TSV or JSON lines file, in the forms that a collection may have.

    Raises:
        UsageError: it is missing or unreadable, or a row is no query.
    """
    require_file(path, "query file")
    ids, texts = collect(reader(path)(path, "text", "_id"), str(path), limit=limit, of=Queries)
    return Queries(ids, texts, path.name.removesuffix(".gz").rsplit(".", 1)[0], {"kind": "local", "file": path.name})


def hub_queries(paths: Iterable[Path], limit: int | None, repo: str, config: str, split: str, revision: str) -> Queries:
    """Read queries from the files of a dataset repository of the Hugging Face Hub."""
    rows = itertools.chain.from_iterable(reader(path)(path, "text", "_id") for path in paths)
    ids, texts = collect(rows, f"{repo} ({config}, {split})", limit=limit, of=Queries)
    source: dict[str, str | int] = {
        "kind": "hub", "repo": repo, "config": config, "split": split, "revision": revision,
    }  # fmt: skip
    return Queries(ids, texts, config, source)


def embedded_queries(passages: Passages, n: int) -> tuple[Queries, Qrels]:
    """Known-item queries: each is made of words of one passage, which alone answers it (`recipe.known_items`).

    Raises:
        UsageError: no passage has enough words.
    """
    items = known_items(passages.texts, n)
    if not items:
        raise UsageError(f"{passages.name}: no passage has words enough to make a query of: give --queries FILE.")
    ids = [f"item-{number}" for number in range(len(items))]
    source: dict[str, str | int] = {"kind": "embedded", "rows": len(items), "seed": QUERIES_SEED}
    grades = {one: {passages.ids[place]: 1} for one, (place, _text) in zip(ids, items, strict=True)}
    queries = Queries(ids, [text for _place, text in items], f"{passages.name}-known-items", source)
    return queries, Qrels(queries.name, grades)


def local_qrels(path: Path) -> Qrels:
    """Read judgements: Parquet with the columns query_id, corpus_id and score, or else TREC's `qid 0 docid grade`.

    Raises:
        UsageError: it is missing or unreadable, or a row is no judgement.
    """
    require_file(path, "file of qrels")
    rows = parquet_rows([path]) if path.suffix.lower() == ".parquet" else _trec_rows(path)
    return collect_qrels(rows, str(path))


def parquet_rows(paths: Iterable[Path]) -> Iterator[Judged]:
    """The rows of judgements in Parquet files."""
    for path in paths:
        with open_parquet(path) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise UsageError(
                    f"{path}: there is no column {missing[0]}; qrels have the columns {', '.join(_COLUMNS)}: rename "
                    "yours, or write TREC's qrels."
                )
            number = 0
            for batch in file.iter_batches(columns=list(_COLUMNS)):
                for row in zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True):
                    number += 1
                    yield (f"row {number}", *row)


def _trec_rows(path: Path) -> Iterator[Judged]:
    for number, line in lines_of(path):
        fields = line.split()
        if len(fields) != 4:
            raise UsageError(
                f"{path}: line {number} has {count(len(fields), 'field')}; a line of TREC's qrels has four, QUERY 0 "
                "PASSAGE GRADE."
            )
        query, _iteration, passage, grade = fields
        try:
            yield f"line {number}", query, passage, int(grade)
        except ValueError as error:
            raise UsageError(f"{path}: the grade in line {number} is {grade!r}; write a whole number.") from error


def collect_qrels(rows: Iterable[Judged], what: str) -> Qrels:
    """Check judgements and gather them by query.

    Raises:
        UsageError: with the first row that is none, or that contradicts another; also for no rows at all.
    """
    grades: dict[str, dict[str, int]] = {}
    for where, query, passage, grade in rows:
        if not all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in (query, passage)):
            raise UsageError(f"{what}: an id in {where} is neither a string nor a whole number; give it one.")
        number = isinstance(grade, (int, float)) and not isinstance(grade, bool)
        if not number or not abs(grade) <= _MOST or int(grade) != grade:  # NaN is not, either
            raise UsageError(f"{what}: the score in {where} is {grade!r}; a grade is a whole number.")
        known = grades.setdefault(str(query), {})
        if known.setdefault(str(passage), int(grade)) != int(grade):
            raise UsageError(f"{what}: {where} grades {passage!r} for {query!r} once more, and differently; keep one.")
    if not grades:
        raise UsageError(f"{what}: this is empty; give qrels, or leave --qrels out.")
    return Qrels(what, grades)


def write_queries(queries: Queries, path: Path, *, by_row: bool = False) -> None:
    """Write queries for a worker: one JSON object a line, `qid` (or `by_row`, its row as a text) and `text`."""
    ids = map(str, range(len(queries))) if by_row else queries.ids
    with path.open("w", encoding="utf-8") as file:
        for qid, text in zip(ids, queries.texts, strict=True):
            # Everything beyond ASCII is escaped: no locale and no way of splitting lines can change a text.
            file.write(json.dumps({"qid": qid, "text": text}) + "\n")


# ---- whether they fit


def fitting(qrels: Qrels, queries: Queries, passages: Passages, *, whole: bool) -> Qrels:
    """The judgements of the queries and passages that are searched.

    Args:
        qrels: may judge other queries, too, as those of a whole data set do.
        queries: what is searched for.
        passages: what is searched.
        whole: whether these are all passages of the collection: of a part of it, passages beyond it may be judged.

    Raises:
        UsageError: not one query is judged, or a passage is judged that the collection does not have.
    """
    wanted, there = set(queries.ids), set(passages.ids)
    ours = {query: known for query, known in qrels.grades.items() if query in wanted}
    if not ours:
        raise UsageError(
            f"{qrels.name}: none of its {len(qrels.grades):,} judged queries is in {queries.name} (the first is "
            f"{next(iter(qrels.grades))!r}, and the first query {queries.ids[0]!r}): give the qrels of these queries."
        )
    for query, known in ours.items():
        for passage, grade in known.items() if whole else ():
            if grade > 0 and passage not in there:
                raise UsageError(
                    f"{qrels.name}: the passage {passage!r}, which is relevant to the query {query!r}, is not in the "
                    f"collection {passages.name}: give the collection that was judged."
                )
    kept = {query: {one: grade for one, grade in known.items() if one in there} for query, known in ours.items()}
    # Without a relevant passage a query says nothing of a ranking.
    kept = {query: known for query, known in kept.items() if any(grade > 0 for grade in known.values())}
    return replace(qrels, grades=kept)
