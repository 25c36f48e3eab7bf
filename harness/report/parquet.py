"""Parquet tables as they are written and read: columns from `columns`, and in the file's metadata what it is of."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.flock import hold
from harness.report.columns import TABLES
from harness.report.older import OLDER, renewed
from harness.store.spec import CellSpec
from harness.words import said

if TYPE_CHECKING:
    from harness.running.experiment import Experiment

SCHEMA = "2"
"""Of all tables; another number where a column changes its name or its meaning. Older ones are read all the same."""

_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "ints": pa.list_(pa.int64()),
    "texts": pa.list_(pa.string()),
}  # fmt: skip

_GROUP = 1 << 16  # rows that are worth a header for every column

MEASURED = ("n", "n_mismatch", "max_abs", "max_abs_ulp", "max_ulp")
"""Columns that have the names of the fields of `Metrics`."""


def about_cells(spec: CellSpec) -> dict[str, str]:
    """What a table of cells like this one is of, for its file's metadata."""
    return {
        "device": spec.device,
        "collection": f"{spec.collection.name} {spec.collection.passages} {spec.collection.digest}",
        "checkpoint": f"{spec.checkpoint.name} {spec.checkpoint.digest}",
        "job": spec.job,
    }


def of_what(about: Mapping[str, str]) -> dict[str, Any]:
    """The first columns of a table, from its metadata; see `about_cells`. What it does not say is null."""
    words = about.get("collection", "").split(" ")
    return {
        "device": about.get("device") or None,
        # Tables of before said the name and the digest only.
        "collection": " ".join(words[: max(1, len(words) - 2)]) or None,
        "passages": int(words[-2]) if len(words) > 2 and words[-2].isdecimal() else None,
        "checkpoint": about.get("checkpoint", "").rpartition(" ")[0] or about.get("checkpoint") or None,
        "job": about.get("job") or None,
    }


def picked(record: object, *names: str) -> dict[str, Any]:
    """Attributes of a record as columns of the same names; null where there is no record."""
    return {name: None if record is None else getattr(record, name) for name in names}


def schema_of(name: str) -> pa.Schema:
    """The Arrow schema of a table in `TABLES`."""
    return pa.schema([(column, _TYPES[kind]) for column, (kind, _) in TABLES[name].columns.items()])


def write_table(
    folder: Path, name: str, rows: Iterable[Mapping[str, Any]], *, stem: str | None = None, **about: str
) -> Path:
    """Write one table at once; returns the file.

    Args:
        folder: made if it does not exist.
        name: a name in `TABLES`.
        rows: column to value; a column that a row lacks is null.
        stem: of the file's name, where it is not the table's.
        about: goes to the file's metadata: device, collection and so on.
    """
    return write_batches(folder, name, [pa.Table.from_pylist(list(rows), schema=schema_of(name))], stem=stem, **about)


def write_batches(
    folder: Path, name: str, tables: Iterable[pa.Table], *, stem: str | None = None, **about: str
) -> Path:
    """The same from Arrow tables of its schema, one after the other: for what is too much to hold as rows."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = schema_of(name).with_metadata({**about, "harness_schema": SCHEMA, "harness_table": name})
    known = of_what(about)
    path = folder / f"{stem or name}.parquet"
    # A name of its own: two commands may write to one folder at the same time.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in _row_groups(tables):
            for number, (column, value) in enumerate(known.items()):
                if value is not None:
                    filled = pc.fill_null(table.column(column), value)
                    table = table.set_column(number, schema.field(number), filled)  # noqa: PLW2901
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    temporary.replace(path)
    return path


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables, small ones put together: each that is written is a group of rows with a header for every column."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        if rows >= _GROUP:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)


def read_table(path: Path, mend: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of a table, and what its file says that it is of: device, collection, schema and so on.

    Rows of a table of an older schema are as they would be written today.

    Raises:
        UsageError: it cannot be read or is of another schema; the sentence ends with `mend`, what to do about it.
    """
    try:
        table = _read(path)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a table ({said(error)}); {mend}.") from error
    about = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (table.schema.metadata or {}).items()
        if not key.startswith(b"ARROW")
    }
    found = about.get("harness_schema")
    if found not in (SCHEMA, *OLDER):
        raise UsageError(f"{path} is not a table of this harness (schema {SCHEMA}); {mend}.")
    if found == SCHEMA:
        return rows, about
    try:
        if "job" not in about and (job := _job_beside(path, about)):
            about["job"] = job
        return renewed(about.get("harness_table", ""), rows, of_what(about)), about
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not the table that it says it is ({said(error)}); {mend}.") from error


def _read(path: Path) -> pa.Table:
    # `pq.read_table` is for folders of files, too, and imports pandas for these, which takes longer than the rest.
    with pq.ParquetFile(path) as file:
        return file.read()


def _job_beside(path: Path, about: Mapping[str, str]) -> str | None:
    """The kind of job that an older table is of, by the cells of the same sweep; None where nobody knows."""
    beside = path.with_name("cells.parquet")
    if about.get("harness_table") == "probes":
        return "probe"
    if not beside.is_file():
        return None
    # Before cells said of which kind they are, there was one.
    groups = {row["group"]: row.get("job", "index") for row in _read(beside).to_pylist()}
    if job := groups.get(about.get("group")):
        return str(job)
    # Findings are of no group: beside indexes there may be searches in them.
    return next((job for job in ("index", "train", "search") if job in groups.values()), None)


def renew_table(path: Path, mend: str) -> bool:
    """Write a table of an older schema again as it would be written today; whether it was one.

    Raises:
        UsageError: as `read_table` does.
    """
    try:
        # Of today's tables some are too much to hold as rows.
        if (pq.read_schema(path).metadata or {}).get(b"harness_schema") == SCHEMA.encode():
            return False
    except (pa.ArrowException, OSError, ValueError):
        pass  # it is said below
    rows, about = read_table(path, mend)
    name = about.pop("harness_table", "")
    del about["harness_schema"]
    if name not in TABLES:
        return False
    write_table(path.parent, name, rows, stem=path.stem, **about)
    return True


# What makes two rows of a table answers to the same question: the later one replaces the earlier.
_QUESTION = {
    "locations": ("a", "b"),
    "swaps": ("cell", "artifacts", "values_of", "reference"),
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
        about = about_cells(experiment.index.spec(version))
        # Findings of several kinds of job may gather in one table: each row says of which it is.
        self._about, self._job = {name: about[name] for name in about if name != "job"}, experiment.selection.job
        self._kept()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Put rows in place of those of the same pair, or the same swap; returns the file."""
        new = [{"job": self._job, **row} for row in rows]
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
