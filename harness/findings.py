"""Parquet tables of what localisation found: stable columns, a schema version in each file's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.flock import hold
from harness.tables import metadata_of
from harness.words import said

if TYPE_CHECKING:
    from harness.experiment import Experiment

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
        spec = experiment.spec(version)
        self._about = {
            "device": spec.device,
            "collection": f"{spec.collection['name']} {spec.collection['passages']} {spec.collection['digest']}",
            "checkpoint": f"{spec.checkpoint['name']} {spec.checkpoint['digest']}",
        }
        self._kept()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Put rows in place of those of the same pair, or the same swap; returns the file."""
        new = list(rows)
        held = hold(self._lock)
        assert held is not None
        with held:
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
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(
                f"{path} cannot be read as a table ({said(error)}); delete it or choose another --output."
            ) from error
        metadata = metadata_of(table)
        for key, value in self._about.items():
            # Tables that were written before they carried this are taken as they are.
            if metadata.get(key, value) != value:
                raise UsageError(
                    f"{path} holds the findings of another {key} ({metadata[key]}, not {value}); "
                    "choose another --output."
                )
        if metadata.get("harness_schema", FINDINGS_SCHEMA) != FINDINGS_SCHEMA:
            raise UsageError(f"{path} was written by another version of harness; delete it or choose another --output.")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
