"""Parquet tables: their schemas' numbers, their metadata, and how one is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TABLES_SCHEMA = "1"


def metadata_of(table: pa.Table) -> dict[str, str]:
    """What the file of a table says that it is of: device, collection, schema version and so on."""
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (table.schema.metadata or {}).items()
        if not key.startswith(b"ARROW")
    }


FINDINGS_SCHEMA = "1"


def _schema(**columns: str) -> pa.Schema:
    kinds: dict[str, pa.DataType] = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


SCHEMAS: dict[str, pa.Schema] = {
    # One row per call of each step that was replayed.
    "locations": _schema(
        a="text", b="text", step="text", artifacts="text", kind="text", module="text", name="text", number="int",
        device="text", status="text", reason="text", n="int", n_mismatch="int", max_abs="float", max_ulp="int",
        trusted="bool",
    ),
    # One row per swapped run and artifact.
    "swaps": _schema(
        job="text", artifacts="text", values_of="text", reference="text", artifact="text", final="bool",
        bit_equal="bool", difference="text", key="text",
    ),
    # One row per pair of versions, case and tensor, and one per fact of a version, whose `a` and `b` are the same.
    "probes": _schema(
        probe="text", case="text", tensor="text", a="text", b="text", key_a="text", key_b="text", status="text",
        dtype="text", shape="text", measured="text", n="int", n_mismatch="int", max_abs="float", max_ulp="int",
        bit_equal="bool", default="bool", bnb="bool", noise="bool", fact="text", holds="bool", note="text",
        digest_a="text", digest_b="text",
    ),
    # One row per counterfactual environment.
    "blame": _schema(
        a="text", b="text", base="text", packages="text", versions="text", what="text", result="text", outcome="text",
        reason="text", digest="text", verdict="text",
    ),
}  # fmt: skip


def write_table(folder: Path, name: str, rows: Iterable[Mapping[str, Any]], **about: str) -> Path:
    """Write one table at once; returns the file.

    Args:
        folder: made if it does not exist.
        name: a name in `SCHEMAS`.
        rows: column to value; a column that a row lacks is null.
        about: goes to the file's metadata.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"harness_schema": FINDINGS_SCHEMA, "harness_table": name, **about}
    table = pa.Table.from_pylist(list(rows), schema=SCHEMAS[name].with_metadata(metadata))
    path = folder / f"{name}.parquet"
    temporary = path.with_suffix(".parquet.new")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
    return path
