"""Headline tables of several sweeps side by side: sizes, devices, nights, or a table that somebody published."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.source import unique_names
from harness.errors import UsageError
from harness.report.headline import VersionPair
from harness.report.parquet import read_table
from harness.words import count, name_key, said

if TYPE_CHECKING:
    from packaging.version import Version

TABLE = "consecutive.parquet"
STEP = ("a", "b")
_SHOWN = 12
COUNTS = ("total", "shapes_match", "default_match", "bnb_match")


@dataclass(frozen=True)
class Headlines:
    """One headline table.

    Attributes:
        title: what its column is called: the collection and its size, or the file's name.
        about: what was measured, or the comment lines of a file.
        rows: by `a` and `b`: `total` (tensors compared), `shapes_match`, `default_match`, `bnb_match` and `bit_equal`
            (how many of them; `bit_equal` is None in a published table), and `gap` (why there is nothing to compare;
            the counts may be None then).
        path: what was read, as it was named.
    """

    title: str
    about: str
    rows: Mapping[VersionPair, Mapping[str, Any]]
    path: Path


def read_headlines(path: Path) -> Headlines:
    """Read a folder of tables, or a CSV file with the columns a, b, total, shapes_match, default_match, bnb_match.

    Raises:
        UsageError: it is not there, cannot be read, or lacks a column.
    """
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".csv" and path.is_file():
        return _csv(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist; name a folder of tables, as --output writes them, or a .csv file.")
    raise UsageError(f"{path} is neither a folder of tables, as --output writes them, nor a .csv file.")


def _folder(folder: Path) -> Headlines:
    path = folder / TABLE
    if not path.exists():
        raise UsageError(without_table(folder))
    rows, about = read_table(path, "name a folder that a sweep wrote its tables to")
    name, passages = [*about.get("collection", "").split(" "), "", ""][:2]
    title = f"{name} ({count(int(passages), 'passage')})" if passages.isdecimal() else folder.name
    checkpoint, digest = [*about.get("checkpoint", "").split(" "), "", ""][:2]
    columns = (*COUNTS, "bit_equal", "gap")
    found = _checked(rows, path, rows[0] if rows else (*STEP, *columns), columns)
    told = f"{about.get('device', 'unknown device')}, checkpoint {checkpoint} ({digest[:8]})"
    return Headlines(title, told, found, folder)


def without_table(folder: Path) -> str:
    """What a folder is that holds no headline table, and which of its folders to name instead."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{TABLE}"))
    if not inside:
        return f"{folder} holds no tables ({TABLE}); name a folder that a sweep or `harness consecutive` wrote them to."
    shown = ", ".join(str(folder / name) for name in inside[:_SHOWN])
    more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
    return f"{folder} holds no tables itself, but {count(len(inside), 'folder')} of tables; name those: {shown}{more}."


def _csv(path: Path) -> Headlines:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        reader = csv.DictReader(filter(str.strip, (line.partition("#")[0] for line in lines)), strict=True)
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read ({said(error)}); mend it.") from error
    if reader.fieldnames is None:
        raise UsageError(f"{path} cannot be read (it has no line of column names); mend it.")
    notes = [line.lstrip("# ") for line in lines if line.startswith("#")]
    return Headlines(path.stem, " ".join(notes), _checked(rows, path, reader.fieldnames, COUNTS), path)


def _checked(
    rows: Iterable[Mapping[str, Any]], path: Path, there: Collection[str], columns: Sequence[str]
) -> dict[VersionPair, dict[str, Any]]:
    """Rows by their step, where all `columns` are `there`."""
    if missing := [column for column in (*STEP, *columns) if column not in there]:
        raise UsageError(f"{path} has no column `{missing[0]}`; a headline table has {', '.join((*STEP, *columns))}.")
    found: dict[VersionPair, dict[str, Any]] = {}
    for row in rows:
        step, gap = (row["a"], row["b"]), row.get("gap") or ""
        try:
            for version in step:
                name_key(version)
            counts = {column: _count(row[column]) for column in COUNTS}
            # A row that lacks a count was not measured, whether or not it says why.
            gap = gap or ("not measured" if None in counts.values() else "")
            counts["bit_equal"] = _count(row.get("bit_equal"))
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path} holds something that is neither a version nor a count ({error}).") from error
        if step in found:
            raise UsageError(f"{path} has two rows for {step[0]} -> {step[1]}; delete one.")
        found[step] = {**counts, "gap": gap}
    return found


def _count(value: object) -> int | None:
    """A number of tensors; None where there is none."""
    if value in (None, ""):
        return None
    text = str(value).strip()
    if not text.isdecimal():
        raise ValueError(f"{text!r}")
    return int(text)


def titles_of(tables: Sequence[Headlines]) -> list[str]:
    """The tables' titles; those that are alike, such as one collection on two devices, with where each was read."""
    titles = [table.title for table in tables]
    ends = unique_names(titles, [table.path for table in tables])
    return [f"{one} in {end}" if titles.count(one) > 1 else one for one, end in zip(titles, ends, strict=True)]


def side_by_side(tables: Sequence[Headlines]) -> tuple[list[str], dict[VersionPair, list[str]]]:
    """The tables' titles, and words of each table for each step of any, in the order of the versions."""
    titles = titles_of(tables)
    steps = sorted({step for table in tables for step in table.rows}, key=_order)
    return titles, {
        step: [_words(table.rows[step]) if step in table.rows else "-" for table in tables] for step in steps
    }


def _order(step: VersionPair) -> list[tuple[bool, str, Version, str]]:
    return [name_key(version) for version in step]


def _words(row: Mapping[str, Any]) -> str:
    if row["gap"]:
        return str(row["gap"])
    total = row["total"]
    if row["bit_equal"] == total:
        return f"bit-equal ({total}/{total})"
    counts = (("shapes", row["shapes_match"]), ("default", row["default_match"]), ("bnb", row["bnb_match"]))
    if all(count == total for _, count in counts):
        return f"within default ({total}/{total})"
    return ", ".join(f"{name} {count}/{total}" for name, count in counts if name != "shapes" or count != total)


def disagreements(tables: Sequence[Headlines]) -> Iterator[str]:
    """A sentence for each step that is beyond the default profile in one table and within it in another."""
    titles = titles_of(tables)
    verdicts: dict[VersionPair, dict[bool, list[str]]] = {}
    for title, table in zip(titles, tables, strict=True):
        for step, row in table.rows.items():
            if not row["gap"]:
                beyond = row["default_match"] < row["total"]
                verdicts.setdefault(step, {True: [], False: []})[beyond].append(title)
    for a, b in sorted(verdicts, key=_order):
        fails, passes = verdicts[a, b][True], verdicts[a, b][False]
        if fails and passes:
            yield f"{a} -> {b} is beyond default in {' and '.join(fails)}, and within it in {' and '.join(passes)}."
