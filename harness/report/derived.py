"""Columns that follow from others: computed when a table is written, and of an older table when it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FORMATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}
"""Stored bits of the fraction, and the exponent of the smallest normal number (IEEE 754, tables 3.5 and 3.6)."""


def judged(profiles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of `comparisons` about tolerances, from profile to its verdict; all null where there is none."""
    found: dict[str, Any] = {}
    for name in ("default", "bnb"):
        verdict = profiles.get(name, {})
        found |= {name: verdict.get("close"), f"{name}_min_rtol": verdict.get("min_rtol")}
    return found | {"failing": [name for name, one in profiles.items() if not one["close"]] if profiles else None}


def steps_at(dtype: str | None, values: Sequence[Any] | None) -> float | None:
    """How far apart two numbers are in steps between neighbouring floats at the larger of them.

    Args:
        dtype: of both; None is returned for what is no float.
        values: the two, as they stand in a table: finite, or else there is no answer.
    """
    if dtype not in _FORMATS or values is None:
        return None
    a, b = (float(value) for value in values)
    if not (math.isfinite(a) and math.isfinite(b)):
        return None
    fraction, smallest = _FORMATS[dtype]
    exponent = max(math.frexp(max(abs(a), abs(b)))[1] - 1, smallest)
    return abs(a - b) / 2.0 ** (exponent - fraction)


def blamed_by(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The packages that make a pair's difference, by its rows of `blame`.

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
