"""Reading texts, which are passages or queries, from Parquet, TSV and JSON lines."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import UsageError
from harness.inputs.passages import Row
from harness.words import said

Reader: TypeAlias = Callable[[Path, str, str | None], Iterator[Row]]
"""Given a file, its text column and its id column, the rows."""


def open_parquet(path: Path) -> Any:  # noqa: ANN401 - pyarrow is not typed here
    """Open a Parquet file, or say that it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        # The last few: names of columns that are not UTF-8, sizes that nothing can have.
        raise bad_parquet(path, error) from error


def bad_parquet(path: Path, error: Exception) -> UsageError:
    """What to say of a Parquet file that cannot be read."""
    return UsageError(
        f"{path}: this is not a readable Parquet file, or it is cut short ({said(error)}); write it again."
    )


def _read_parquet(path: Path, text_column: str, id_column: str | None) -> Iterator[Row]:
    import pyarrow as pa

    with open_parquet(path) as file:
        try:
            present = list(file.schema_arrow.names)
        except (pa.ArrowException, ValueError) as error:
            raise bad_parquet(path, error) from error
        id_column = _check_columns(str(path), present, text_column, id_column)
        columns = [text_column] if id_column is None else [text_column, id_column]
        number = 0
        try:
            for batch in file.iter_batches(batch_size=8192, columns=columns):
                texts = batch.column(text_column).to_pylist()
                ids = [None] * len(texts) if id_column is None else batch.column(id_column).to_pylist()
                for raw_id, text in zip(ids, texts, strict=True):
                    number += 1
                    if id_column is not None and raw_id is None:
                        raise UsageError(
                            f"{path}: the field {id_column} in row {number} is null; every row needs an id."
                        )
                    yield f"row {number}", raw_id, text
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: a text near row {number + 1} is not valid UTF-8; write the file again as UTF-8."
            ) from error
        except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
            raise bad_parquet(path, error) from error


def _check_columns(what: str, present: list[str], text_column: str, id_column: str | None) -> str | None:
    """The id column to use; a sentence when a column that was asked for is not there."""
    if text_column not in present:
        raise UsageError(
            f"{what}: there is no column {text_column}; it has {', '.join(present) or 'none'}: "
            f"rename the one that holds the text."
        )
    if id_column is None or id_column in present:
        return id_column
    if id_column == "_id":
        return None
    raise UsageError(f"{what}: there is no column {id_column} for ids; it has {', '.join(present)}.")


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their ends (LF or CR LF, nothing else); empty lines are skipped."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: line {number} is not valid UTF-8; save the file as UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(
            f"{path}: the gzip stream is damaged or cut short after line {number}; compress the file again."
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: the file cannot be read: {said(error)}; check its permissions.") from error


def _read_tsv(path: Path, text_column: str, id_column: str | None) -> Iterator[Row]:
    lines = lines_of(path)
    first = next(lines, None)
    if first is None:
        return
    header = first[1].split("\t")
    if header[0].strip().isdecimal() and text_column not in header:
        yield from _read_colbert_tsv(path, itertools.chain([first], lines))
        return
    id_column = _check_columns(str(path), header, text_column, id_column)
    text_at = header.index(text_column)
    id_at = None if id_column is None else header.index(id_column)
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise UsageError(
                f"{path}: line {number} has {len(fields)} fields, and the header names {len(header)}; "
                f"take tabs out of the texts, or use JSONL."
            )
        yield f"line {number}", None if id_at is None else fields[id_at], fields[text_at]


def _read_colbert_tsv(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) not in (2, 3) or not fields[0].strip().isdecimal():
            raise UsageError(
                f"{path}: line {number} is not pid<TAB>text or pid<TAB>text<TAB>title with a number as pid; "
                f"take tabs and line breaks out of the texts, or use JSONL."
            )
        text = fields[1] if len(fields) == 2 else f"{fields[2]} | {fields[1]}"
        yield f"line {number}", fields[0].strip(), text if fields[1].strip() else fields[1]


def _read_jsonl(path: Path, text_column: str, id_column: str | None) -> Iterator[Row]:
    use_ids: bool | None = None
    for number, line in lines_of(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise UsageError(
                f"{path}: line {number} is not valid JSON ({reason}); each line must be one JSON object."
            ) from error
        if isinstance(value, str):
            value = {text_column: value}
        if not isinstance(value, dict):
            raise UsageError(
                f"{path}: line {number} is a JSON {type(value).__name__}; each line must be one JSON object."
            )
        if use_ids is None:
            # The first line decides, as a header would; a later line without an id is then a mistake in that line.
            use_ids = _check_columns(str(path), list(value), text_column, id_column) is not None
        if use_ids and value.get(id_column or "") is None:
            raise UsageError(
                f"{path}: line {number} has no {id_column}, though the first line has one; every row needs an id."
            )
        yield f"line {number}", value[id_column or ""] if use_ids else None, value.get(text_column)


_FORMATS = {".parquet": "parquet", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SUFFIXES = (*_FORMATS, ".gz")
"""How the name of a file of texts can end."""
_READERS: dict[str, Reader] = {"parquet": _read_parquet, "tsv": _read_tsv, "jsonl": _read_jsonl}


def format_of(path: Path) -> str:
    """The format that a file's suffix says; a sentence if it is none of ours."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    kind = _FORMATS.get(suffix)
    if kind is None or (kind == "parquet" and name.endswith(".gz")):
        raise UsageError(
            f"{path}: the suffix {path.suffix or '(none)'} is not one of a file of texts; "
            f"use .parquet, .tsv, .jsonl or .ndjson (the last three also with .gz)."
        )
    return kind


def require_file(path: Path, what: str) -> None:
    """Refuse a path that is no file.

    Raises:
        UsageError: with what it was to be.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: this {what} {'is not a file' if path.exists() else 'does not exist'}; check the path."
        )


def reader(path: Path) -> Reader:
    """What reads a file of this name."""
    return _READERS[format_of(path)]


def count_rows(path: Path) -> int:
    """Rows of a file that the Hub gave; a header of a TSV file is not one."""
    if format_of(path) == "parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    first = next(lines_of(path), (0, ""))[1]
    header = format_of(path) == "tsv" and not first.split("\t")[0].strip().isdecimal()
    return sum(1 for _ in lines_of(path)) - header
