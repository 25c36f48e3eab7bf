"""Headline tables of several sweeps side by side: sizes, devices, nights, or a table that somebody published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts.ladder import unique_names
from harness.axis import version_key
from harness.errors import UsageError
from harness.report.parquet import TABLES_SCHEMA, metadata_of
from harness.words import count, said

TABLE = "consecutive.parquet"
STEP = ["a", "b"]
_SHOWN = 12
COUNTS = ["total", "shapes_match", "default_match", "bnb_match"]


@dataclass(frozen=True)
class Headlines:
    """One headline table.

    Attributes:
        title: what its column is called: the collection and its size, or the file's name.
        about: what was measured, or the comment lines of a file.
        frame: one row per step, indexed by `a` and `b`: `total` (tensors compared), `shapes_match`, `default_match`,
            `bnb_match` and `bit_equal` (how many of them; `bit_equal` is missing in a published table), all nullable
            integers, and `gap` (text: why there is nothing to compare).
    """

    title: str
    about: str
    frame: pd.DataFrame


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
        raise UsageError(_without_table(folder))
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({said(error)}); name a folder that a sweep wrote its tables to."
        ) from error
    about = metadata_of(table)
    if about.get("harness_schema") != TABLES_SCHEMA:
        raise UsageError(f"{path} is not a table of this harness (schema {TABLES_SCHEMA}); write the tables anew.")
    name, passages = [*about.get("collection", "").split(" "), "", ""][:2]
    title = f"{name} ({count(int(passages), 'passage')})" if passages.isdecimal() else folder.name
    checkpoint, digest = [*about.get("checkpoint", "").split(" "), "", ""][:2]
    frame = _checked(table.to_pandas(), path, [*COUNTS, "bit_equal", "gap"])
    return Headlines(title, f"{about.get('device', 'unknown device')}, checkpoint {checkpoint} ({digest[:8]})", frame)


def _without_table(folder: Path) -> str:
    """What a folder is that holds no headline table, and which of its folders to name instead."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{TABLE}"))
    if not inside:
        return f"{folder} holds no tables ({TABLE}); name a folder that a sweep or `harness consecutive` wrote them to."
    shown = ", ".join(str(folder / name) for name in inside[:_SHOWN])
    more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
    return f"{folder} holds no tables itself, but {count(len(inside), 'folder')} of tables; name those: {shown}{more}."


def _csv(path: Path) -> Headlines:
    try:
        text = path.read_text(encoding="utf-8")
        frame = pd.read_csv(path, comment="#", dtype={"a": str, "b": str})
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({said(error)}); mend it.") from error
    notes = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return Headlines(path.stem, " ".join(notes), _checked(frame, path, COUNTS))


def _checked(frame: pd.DataFrame, path: Path, columns: Sequence[str]) -> pd.DataFrame:
    missing = [column for column in [*STEP, *columns] if column not in frame.columns]
    if missing:
        raise UsageError(f"{path} has no column `{missing[0]}`; a headline table has {', '.join([*STEP, *columns])}.")
    for column in ("bit_equal", "gap"):
        if column not in frame.columns:
            frame[column] = None
    try:
        for column in [*COUNTS, "bit_equal"]:
            frame[column] = frame[column].astype("Int64")
        for version in {*frame["a"], *frame["b"]}:
            version_key(version)
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} holds something that is neither a version nor a count ({error}).") from error
    # A row that lacks a count was not measured, whether or not it says why.
    lacking = frame[COUNTS].isna().any(axis="columns") & (frame["gap"].fillna("") == "")
    frame["gap"] = frame["gap"].astype(object).mask(lacking, "not measured")
    twice = frame[frame.duplicated(STEP)]
    if len(twice):
        raise UsageError(f"{path} has two rows for {twice.iloc[0]['a']} -> {twice.iloc[0]['b']}; delete one.")
    return frame.set_index(STEP)[[*COUNTS, "bit_equal", "gap"]]


def side_by_side(tables: Sequence[Headlines]) -> pd.DataFrame:
    """One row per step of any table, in the order of the versions, and one column of words per table."""
    titles = unique_names([table.title for table in tables])
    columns = {
        title: table.frame.apply(_words, axis="columns")
        for title, table in zip(titles, tables, strict=True)
        if len(table.frame)
    }
    joined = pd.DataFrame(columns).reindex(columns=titles).fillna("-")
    return joined.sort_index(key=lambda level: level.map(version_key))


def _words(row: pd.Series[Any]) -> str:
    if row["gap"]:
        return str(row["gap"])
    total = row["total"]
    if pd.notna(row["bit_equal"]) and row["bit_equal"] == total:
        return f"bit-equal ({total}/{total})"
    counts = (("shapes", row["shapes_match"]), ("default", row["default_match"]), ("bnb", row["bnb_match"]))
    if all(count == total for _, count in counts):
        return f"within default ({total}/{total})"
    return ", ".join(f"{name} {count}/{total}" for name, count in counts if name != "shapes" or count != total)


def disagreements(tables: Sequence[Headlines]) -> Iterator[str]:
    """A sentence for each step that is beyond the default profile in one table and within it in another."""
    titles = unique_names([table.title for table in tables])
    verdicts: dict[tuple[str, str], dict[bool, list[str]]] = {}
    for title, table in zip(titles, tables, strict=True):
        measured = table.frame[table.frame["gap"].fillna("") == ""]
        for step, beyond in zip(measured.index, measured["default_match"] < measured["total"], strict=True):
            verdicts.setdefault(step, {True: [], False: []})[bool(beyond)].append(title)
    for a, b in sorted(verdicts, key=lambda step: tuple(map(version_key, step))):
        fails, passes = verdicts[a, b][True], verdicts[a, b][False]
        if fails and passes:
            yield f"{a} -> {b} is beyond default in {' and '.join(fails)}, and within it in {' and '.join(passes)}."
