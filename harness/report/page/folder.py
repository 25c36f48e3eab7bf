"""A folder of tables as the page needs it: read once, checked, and with a name that a person recognises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.artifacts.source import unique_names
from harness.errors import UsageError
from harness.report.columns import TABLES
from harness.report.headline import VersionPair
from harness.report.headlines import TABLE, without_table
from harness.report.parquet import of_what, read_table
from harness.words import count, name_key

Row = Mapping[str, Any]

OPTIONAL = {
    "env_delta": ("the packages that differ", "harness consecutive"),
    "comparisons": ("each artifact of each step", "harness consecutive"),
    "locations": ("where a difference starts", "harness locate A B --output FOLDER"),
    "blame": ("which package made it", "harness blame A B --output FOLDER"),
    "swaps": ("what swapped artifacts do", "harness swap A B ARTIFACT --output FOLDER"),
    "probes": ("single operators and batch sizes", "harness probes --output FOLDER"),
    "retrieval": ("what searches return", "harness search, then harness consecutive"),
    "training": ("what trainings make", "harness train, then harness consecutive"),
    "cells": ("where each cell comes from", "harness consecutive"),
}
"""Tables that a folder may lack: what they would say, and what writes them."""


@dataclass(frozen=True)
class Folder:
    """The tables of one experiment: one device, collection and checkpoint.

    Attributes:
        path: as it was named.
        about: what the tables say of themselves: `device`, `collection`, `checkpoint`, and `axis`, the package whose
            versions they compare, where that is not torch.
        tables: name to rows, of those that are there; each row has every column of `TABLES`.
        texts: what commands printed, kept beside the tables.
        title: tells it from the others of a page.
    """

    path: Path
    about: Mapping[str, str]
    tables: Mapping[str, Sequence[Row]]
    texts: tuple[Path, ...] = ()
    title: str = field(default="")

    def rows(self, name: str, step: VersionPair | None = None) -> list[Row]:
        """The rows of a table, or those of one step; none where the table is not there."""
        return list(self.tables.get(name, ()) if step is None else self._by_step.get((name, *step), ()))

    @cached_property
    def _by_step(self) -> Mapping[tuple[str, str, str], Sequence[Row]]:
        found: dict[tuple[str, str, str], list[Row]] = {}
        for name, rows in self.tables.items():
            for row in rows if {"a", "b"} <= set(TABLES[name].columns) else ():
                found.setdefault((name, row["a"], row["b"]), []).append(row)
        return found

    def compared(self, step: VersionPair, kind: str = "consecutive") -> Mapping[str, Row]:
        """Rows of `comparisons` of a step (or of a pair of runs), one for each tensor, in the pipeline's order."""
        return {
            row["artifact"]: row
            for row in self.rows("comparisons", step)
            if row["kind"] == kind and row["artifact"] != "metadata"
        }

    @property
    def device(self) -> str:
        """The device by its name, without what tells families apart."""
        kind, _, name = self.about.get("device", "").partition(" ")
        words = [word for word in name.split() if "+" not in word]
        if kind == "cpu":
            # Vendors call themselves AuthenticAMD and GenuineIntel.
            return f"CPU {re.sub(r'^(Authentic|Genuine)', '', ' '.join(words))}"
        return " ".join(words[:-1] if words and re.fullmatch(r"\d+\.\d+", words[-1]) else words) or "unknown device"

    @property
    def collection(self) -> str:
        """Its name and size."""
        of = of_what(self.about)
        return ", ".join(
            part for part in (of["collection"], of["passages"] is not None and count(of["passages"], "passage")) if part
        )

    @property
    def checkpoint(self) -> str:
        """Its name."""
        return of_what(self.about)["checkpoint"] or ""

    @property
    def makes(self) -> str:
        """What its jobs make: an index, or a trained model."""
        return "trained model" if self.about.get("job") == "train" else "index"

    @property
    def parts(self) -> list[str]:
        """What tells it from other folders, the device first."""
        axis = self.about.get("axis", "") and f"versions of {self.about['axis']}"
        return [part for part in (self.device, self.collection, self.checkpoint, self._job, axis) if part]

    @property
    def varied(self) -> str:
        """What its versions are of."""
        return self.about.get("axis") or "PyTorch"

    @property
    def _job(self) -> str:
        return "" if self.makes == "index" else "training"

    @property
    def steps(self) -> list[VersionPair]:
        """Every step, in the order of versions."""
        return sorted(((row["a"], row["b"]) for row in self.tables["consecutive"]), key=step_key)

    @property
    def span(self) -> str:
        """Its first and its last version."""
        return f"{self.steps[0][0]} to {self.steps[-1][1]}" if self.steps else "no steps"

    @property
    def lacks(self) -> list[tuple[str, str, str]]:
        """Tables that are not there: name, what they would say, and what writes them."""
        return [(name, *told) for name, told in OPTIONAL.items() if name not in self.tables]


def step_key(step: VersionPair) -> list[Any]:
    """Sort key of a step."""
    return [name_key(version) for version in step]


def read_folders(paths: Sequence[Path]) -> list[Folder]:
    """Read folders of tables, each with a title that tells it from the others.

    Raises:
        UsageError: one is no folder of tables, or a table cannot be read.
    """
    found = [_read(path) for path in paths]
    titles = [", ".join(one.parts) for one in found]
    spans = [f"{title}, {one.span}" for title, one in zip(titles, found, strict=True)]
    titles = [span if titles.count(title) > 1 else title for title, span in zip(titles, spans, strict=True)]
    ends = unique_names(titles, paths)
    return [
        replace(one, title=f"{title} ({end})" if titles.count(title) > 1 else title)
        for one, title, end in zip(found, titles, ends, strict=True)
    ]


def _read(path: Path) -> Folder:
    if not path.is_dir():
        raise UsageError(f"{path} is no folder of tables; name one that a sweep or `harness consecutive` wrote.")
    if not (path / TABLE).exists():
        raise UsageError(without_table(path))
    tables: dict[str, list[Row]] = {}
    about: dict[str, str] = {}
    for name in ("consecutive", *OPTIONAL):
        # Findings of single steps may have a file each: locations-2.7.1-2.8.0.parquet.
        files = [path / f"{name}.parquet", *(sorted(path.glob(f"{name}-*.parquet")) if name == "locations" else ())]
        for file in filter(Path.exists, files):
            rows, said = read_table(file, "write it again, or leave this folder out")
            tables.setdefault(name, []).extend(_whole(name, rows, file))
            about = about or said
    for row in tables["consecutive"]:
        try:
            step_key((row["a"], row["b"]))
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path / TABLE}: column `a` or `b` holds no version ({error}).") from error
    return Folder(path, about, tables, tuple(sorted(path.glob("*.txt"))))


_KINDS: Mapping[str, tuple[type, ...]] = {
    "text": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "ints": (list,), "texts": (list,),
}  # fmt: skip


def _whole(name: str, rows: Iterable[Row], file: Path) -> Iterator[Row]:
    """Rows with every column of the table; one that an older file lacks is null, as what is not known is.

    Raises:
        UsageError: a value is of another type than its column.
    """
    columns = TABLES[name].columns
    for row in rows:
        for column, (kind, _meaning) in columns.items():
            value = row.get(column)
            if value is not None and not isinstance(value, _KINDS[kind]):
                raise UsageError(f"{file}: column `{column}` holds {value!r}, no {kind}; write the table again.")
        yield dict.fromkeys(columns) | dict(row)
