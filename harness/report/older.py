"""Rows of tables that an older version of this package wrote, as they would be written today; no value is made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from harness.report.columns import OF_WHAT, TABLES
from harness.report.derived import judged
from harness.tensors.metrics import steps_at

OLDER = ("1",)
"""Schemas that can still be read."""

Row = dict[str, Any]


def renewed(name: str, rows: Iterable[Mapping[str, Any]], known: Mapping[str, Any]) -> list[Row]:
    """Rows of a table of schema 1 with the columns of today.

    Args:
        name: of the table.
        rows: as they were read.
        known: the first columns of every table, from the file's metadata; see `OF_WHAT`.

    Raises:
        KeyError: a column is missing that was always there.
    """
    made = _CHANGED.get(name, list)([dict(row) for row in rows])
    columns = TABLES[name].columns if name in TABLES else {}
    first = {column: known.get(column) for column in OF_WHAT}
    # Each cell says of itself what it is of.
    return [{**dict.fromkeys(columns), **(first | row if name == "cells" else row | first)} for row in made]


def _comparisons(rows: list[Row]) -> list[Row]:
    """One row for each artifact of a pair, where there was one for each of its profiles."""
    found = []
    for _, several in groupby(rows, lambda row: (row["kind"], row["key_a"], row["key_b"], row["artifact"])):
        of = list(several)
        row = {column: value for column, value in of[0].items() if column not in ("profile", *_VERDICT)}
        details = json.loads(row["details"])
        verdicts = {one["profile"]: {name: one[name] for name in _VERDICT} for one in of if one["profile"]}
        ulp = steps_at(row["dtype_b"], details.get("max_abs_values"))
        found.append({**row, **judged(verdicts), "max_abs_ulp": ulp})
    return found


def _with_names(**names: str) -> Callable[[list[Row]], list[Row]]:
    """Columns whose names are those of the first columns now get others."""
    return lambda rows: [{names.get(column, column): value for column, value in row.items()} for row in rows]


def blamed_by(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The packages that make a pair's difference, by its rows of `blame`, which did not say so.

    They are of the smallest set of units whose exchange exchanges the result in both directions: in B it gives A's, in
    A it gives B's. A unit that has no package's name stands for all packages that were exchanged with it.
    """
    gives: dict[str, dict[str, tuple[str, str]]] = {}
    for row in rows:
        if row["base"] is not None:
            gives.setdefault(row["what"], {})[row["base"]] = (row["result"], row["packages"])
    both = [
        (what.split(","), bases["B"][1].split(","))
        for what, bases in gives.items()
        if [bases.get(base, ("", ""))[0] for base in ("B", "A")] == ["as A", "as B"]
    ]
    fewest = min((len(units) for units, _ in both), default=0)
    return sorted(
        {
            package
            for units, packages in both
            if len(units) == fewest
            for package in (units if set(units) <= set(packages) else packages)
        }
    )


def _blame(rows: list[Row]) -> list[Row]:
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row["a"], row["b"]), []).append(row)
    return [row | {"blamed": blamed_by(pairs[row["a"], row["b"]])} for row in rows]


_VERDICT = ("atol", "rtol", "close", "min_rtol")
_CHANGED: Mapping[str, Callable[[list[Row]], list[Row]]] = {
    "comparisons": _comparisons, "locations": _with_names(device="ran_on"), "swaps": _with_names(job="cell"),
    "blame": _blame,
}  # fmt: skip
"""Table to what makes its rows of today; of the others only the first columns are new."""
