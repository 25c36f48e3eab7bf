"""TREC's run files, as trec_eval and its like read and write them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.errors import UsageError
from harness.files import map_file
from harness.rankings.run import Run
from harness.tensors.dtypes import Array
from harness.words import count

_BLOCK = 1 << 18
_GZIP, _BOM = b"\x1f\x8b", b"\xef\xbb\xbf"
_LINE = "qid Q0 docid rank score tag"
_READ = (0, 2, 3, 4)

Row = list[bytes]
Number = TypeVar("Number", int, float)


def read_run(path: Path, name: str = "") -> Run:
    """Read a run file: `qid Q0 docid rank score tag` a line, in whatever order; its order is that of the ranks.

    Args:
        path: the file, which may be compressed with gzip.
        name: what tables call it; the file's name if empty.

    Raises:
        UsageError: it holds something else; one sentence with the line.
    """
    columns = _columns(path)
    qids, names = _Names(), _Names()
    queries, passages = np.array(qids.numbers(columns[0])), np.array(names.numbers(columns[1]))
    lines = columns.lines
    ranks = columns.numbers(2, int, "a rank, which is a whole number")
    scores = columns.numbers(3, float, "a score, which is a number")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise columns.wrong(int(bad[0]), f"the score is {scores[bad[0]]}, and must be a finite number")
    order = np.lexsort((ranks, queries))
    queries, passages, ranks, scores, lines = (one[order] for one in (queries, passages, ranks, scores, lines))
    first = np.ones(queries.size, np.bool_)
    first[1:] = queries[1:] != queries[:-1]
    decoded = qids.decoded(columns)
    _check_ranks(path, decoded, queries, ranks, lines, first)
    starts = np.append(np.flatnonzero(first), queries.size)
    run = Run(name or path.name, decoded, starts, passages, scores, names.decoded(columns))
    _check_once(path, run, queries, lines)
    return run


def _check_ranks(path: Path, qids: tuple[str, ...], queries: Array, ranks: Array, lines: Array, first: Array) -> None:
    """Ranks of each query are 1, 2, 3 and so on, or 0, 1, 2: refuse gaps and ranks that stand twice."""
    wrong = np.flatnonzero(first & (ranks != 0) & (ranks != 1))
    if wrong.size:
        at = wrong[0]
        raise UsageError(
            f"{path}, line {lines[at]}: the first rank of query {qids[queries[at]]} is {ranks[at]}; ranks start with 1 "
            "(or 0), or lines are missing."
        )
    step = np.diff(ranks, prepend=0)
    wrong = np.flatnonzero(~first & (step != 1))
    if not wrong.size:
        return
    at = wrong[0]
    query = qids[queries[at]]
    if step[at] == 0:
        raise UsageError(
            f"{path}, line {lines[at]}: query {query} has rank {ranks[at]} twice (also in line {lines[at - 1]}); "
            "write its ranks in the searcher's order."
        )
    raise UsageError(
        f"{path}, line {lines[at]}: query {query} has rank {ranks[at]} after rank {ranks[at - 1]}: lines between them "
        "are missing; write the run whole."
    )


def _check_once(path: Path, run: Run, queries: Array, lines: Array) -> None:
    """Refuse a passage that a query's list holds twice."""
    keys = queries * len(run.ids) + run.passages
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if twice.size:
        pair = order[twice[0] : twice[0] + 2]
        raise UsageError(
            f"{path}, line {lines[pair].max()}: query {run.qids[queries[pair[0]]]} has the passage "
            f"{run.ids[run.passages[pair[0]]]} twice (also in line {lines[pair].min()}); a list holds a passage once."
        )


def write_run(path: Path, run: Run, tag: str = "") -> None:
    """Write a run file whose ranks start with 1; scores have the digits that give the same float64 again.

    Args:
        path: overwritten.
        run: what to write.
        tag: the last column, whose spaces become hyphens; the run's name if empty.

    Raises:
        UsageError: the name of a query or a passage holds a space, which the format has no place for.
    """
    tag = "-".join((tag or run.name).split()) or "run"
    for what, names in (("query", run.qids), ("passage", run.ids)):
        bad = next((one for one in names if len(one.encode().split()) != 1), None)
        if bad is not None:
            raise UsageError(
                f"The {what} {bad!r} cannot be written to {path}: names in a TREC run are not empty and hold no spaces."
            )
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, qid in enumerate(run.qids):
            listed, scores = run.listed(number)
            file.writelines(
                f"{qid} Q0 {one} {rank} {score!r} {tag}\n"
                for rank, (one, score) in enumerate(zip(listed, scores, strict=True), start=1)
            )


class _Names:
    """Names as bytes, numbered as they come."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def numbers(self, names: list[bytes]) -> list[int]:
        known = self._known
        return [known.setdefault(name, len(known)) for name in names]

    def decoded(self, columns: _Columns) -> tuple[str, ...]:
        return tuple(map(columns.text, self._known))


class _Columns:
    """The columns of a file that are read, as bytes, and the line of each row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[list[bytes]] = [[] for _ in _READ]
        self._lines: list[int] = []

    def add(self, rows: list[Row], numbers: list[int]) -> None:
        for column, place in zip(self._columns, _READ, strict=True):
            column += [row[place] for row in rows]
        self._lines += numbers

    def __getitem__(self, number: int) -> list[bytes]:
        return self._columns[number]

    @property
    def lines(self) -> Array:
        return np.array(self._lines)

    def numbers(self, column: int, kind: Callable[[bytes], Number], what: str) -> Array:
        texts = self._columns[column]
        try:
            return np.array(list(map(kind, texts)), np.int64 if kind is int else np.float64)
        except (ValueError, OverflowError):
            row = next(row for row, text in enumerate(texts) if not _is(text, kind))
            raise self.wrong(row, f"{texts[row].decode('utf-8', 'replace')!r} is not {what}") from None

    def text(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            row = next(row for column in self._columns[:2] for row, text in enumerate(column) if text == name)
            raise self.wrong(row, "a name is not valid UTF-8; write the file as UTF-8") from None

    def wrong(self, row: int, what: str) -> UsageError:
        return UsageError(f"{self._path}, line {self._lines[row]}: {what} (a line is `{_LINE}`).")


def _is(text: bytes, kind: Callable[[bytes], Any]) -> bool:
    try:
        np.array([kind(text)], np.int64 if kind is int else np.float64)
    except (ValueError, OverflowError):
        return False
    return True


def _columns(path: Path) -> _Columns:
    """The columns of a file that are read; empty lines count for nothing."""
    width = len(_LINE.split())
    found = _Columns(path)
    start = 1
    for block in _blocks(path):
        rows = [line.split() for line in block.split(b"\n")]
        if not {width}.issuperset(map(len, rows)):
            for number, row in enumerate(rows, start):
                if len(row) not in (0, width):
                    raise UsageError(
                        f"{path}, line {number}: {count(len(row), 'column')}, where `{_LINE}` has {width}; names hold "
                        "no spaces."
                    )
        found.add([row for row in rows if row], [number for number, row in enumerate(rows, start) if row])
        start += len(rows)
    if not found.lines.size:
        raise UsageError(f"{path} is empty; each line of it should be `{_LINE}`.")
    return found


def _blocks(path: Path) -> Iterator[bytes]:
    """The file's content in pieces of whole lines, each without its last line break."""
    raw = map_file(path)
    compressed = raw[: len(_GZIP)].tobytes() == _GZIP
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            left = file.read(len(_BOM)).removeprefix(_BOM)
            while block := file.read(_BLOCK):
                whole, ended, left = (left + block).rpartition(b"\n")
                if ended:
                    yield whole
            if left:
                yield left
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: the gzip stream is damaged or cut short; compress the file again.") from error
