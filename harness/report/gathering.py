"""Parquet tables of what localisation found: stable columns, a schema version in each file's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.flock import hold
from harness.report.parquet import read_table, write_table

if TYPE_CHECKING:
    from harness.running.experiment import Experiment


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
            "collection": f"{spec.collection.name} {spec.collection.passages} {spec.collection.digest}",
            "checkpoint": f"{spec.checkpoint.name} {spec.checkpoint.digest}",
        }
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
        rows, about = read_table(path, "delete it or choose another --output")
        for key, value in self._about.items():
            # Tables that were written before they carried this are taken as they are.
            if about.get(key, value) != value:
                raise UsageError(
                    f"{path} holds the findings of another {key} ({about[key]}, not {value}); choose another --output."
                )
        return rows
