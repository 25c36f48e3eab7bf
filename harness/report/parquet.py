"""Parquet tables as they are written and read: columns from `columns`, and in the file's metadata what it is of."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.flock import hold
from harness.report.columns import TABLES
from harness.store.spec import CellSpec
from harness.words import said

if TYPE_CHECKING:
    from harness.running.experiment import Experiment

SCHEMA = "1"
"""Of all tables; another number where a column changes its name or its meaning."""

_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "ints": pa.list_(pa.int64()),
    "texts": pa.list_(pa.string()),
}  # fmt: skip

VERDICT = ("atol", "rtol", "close", "min_rtol")
MEASURED = ("n", "n_mismatch", "max_abs", "max_ulp")
"""Columns that have the names of the fields of a `Verdict`, and of `Metrics`."""


def about_cells(spec: CellSpec) -> dict[str, str]:
    """What a table of cells like this one is of, for its file's metadata."""
    return {
        "device": spec.device,
        "collection": f"{spec.collection.name} {spec.collection.passages} {spec.collection.digest}",
        "checkpoint": f"{spec.checkpoint.name} {spec.checkpoint.digest}",
    }


def picked(record: object, *names: str) -> dict[str, Any]:
    """Attributes of a record as columns of the same names; null where there is no record."""
    return {name: None if record is None else getattr(record, name) for name in names}


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


# What makes two rows of a table answers to the same question: the later one replaces the earlier.
_QUESTION = {
    "locations": ("a", "b"),
    "swaps": ("job", "artifacts", "values_of", "reference"),
    "blame": ("a", "b"),
}


class Gathering:
    """A table that gathers what several commands found: the rows of other pairs stay when a pair's are written.

    It is made before the work begins, so that a folder which holds the findings of another experiment is refused then.

    Args:
        folder: made when the first rows are written.
        name: `locations`, `swaps` or `blame`.
        experiment: its device, collection and checkpoint go to the file's metadata; a table is of one of each.
        version: any version of the experiment.

    Raises:
        UsageError: the table that is there cannot be read or is of another device, collection or checkpoint.
    """

    def __init__(self, folder: Path, name: str, experiment: Experiment, version: str) -> None:
        self._folder, self._name, self._lock = folder, name, experiment.home.root / "findings.lock"
        # Of the index, which can be planned before anything has run; a search is of the same three.
        self._about = about_cells(experiment.index.spec(version))
        self._kept()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Put rows in place of those of the same pair, or the same swap; returns the file."""
        new = list(rows)
        with hold(self._lock):
            answered = {self._question(row) for row in new}
            kept = [row for row in self._kept() if self._question(row) not in answered]
            return write_table(self._folder, self._name, [*kept, *new], **self._about)

    def _question(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(column) for column in _QUESTION[self._name])

    def _kept(self) -> list[dict[str, Any]]:
        path = self._folder / f"{self._name}.parquet"
        if not path.exists():
            return []
        if not path.is_file():
            raise UsageError(f"{path} is not a file, so no table can be written there; choose another --output.")
        rows, found = read_table(path, "delete it or choose another --output")
        for key, value in self._about.items():
            # Tables that were written before they carried this are taken as they are.
            if found.get(key, value) != value:
                raise UsageError(
                    f"{path} holds the findings of another {key} ({found[key]}, not {value}); choose another --output."
                )
        return rows
