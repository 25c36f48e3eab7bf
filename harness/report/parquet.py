"""Parquet tables as they are written and read: columns from `columns`, and in the file's metadata what it is of."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.report.columns import TABLES
from harness.words import said

SCHEMA = "1"
"""Of all tables; another number where a column changes its name or its meaning."""

_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "ints": pa.list_(pa.int64()),
    "texts": pa.list_(pa.string()),
}  # fmt: skip


def schema_of(name: str) -> pa.Schema:
    """The Arrow schema of a table in `TABLES`."""
    return pa.schema([(column, _TYPES[kind]) for column, (kind, _) in TABLES[name].columns.items()])


def write_table(folder: Path, name: str, rows: Iterable[Mapping[str, Any]], **about: str) -> Path:
    """Write one table at once; returns the file.

    Args:
        folder: made if it does not exist.
        name: a name in `TABLES`.
        rows: column to value; a column that a row lacks is null.
        about: goes to the file's metadata: device, collection and so on.
    """
    return write_batches(folder, name, [pa.Table.from_pylist(list(rows), schema=schema_of(name))], **about)


def write_batches(folder: Path, name: str, tables: Iterable[pa.Table], **about: str) -> Path:
    """The same from Arrow tables of its schema, one after the other: for what is too much to hold as rows."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = schema_of(name).with_metadata({"harness_schema": SCHEMA, "harness_table": name, **about})
    path = folder / f"{name}.parquet"
    # A name of its own: two commands may write to one folder at the same time.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    temporary.replace(path)
    return path


def read_table(path: Path, mend: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of a table, and what its file says that it is of: device, collection, schema and so on.

    Raises:
        UsageError: it cannot be read or is of another schema; the sentence ends with `mend`, what to do about it.
    """
    try:
        table = pq.read_table(path)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a table ({said(error)}); {mend}.") from error
    about = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (table.schema.metadata or {}).items()
        if not key.startswith(b"ARROW")
    }
    if about.get("harness_schema") != SCHEMA:
        raise UsageError(f"{path} is not a table of this harness (schema {SCHEMA}); {mend}.")
    return rows, about
