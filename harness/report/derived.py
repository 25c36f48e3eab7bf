"""Columns that follow from others: computed when a table is written, and of an older table when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def judged(profiles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Columns of `comparisons` about tolerances, from profile to its verdict; all null where there is none."""
    found: dict[str, Any] = {}
    for name in ("default", "bnb"):
        verdict = profiles.get(name, {})
        found |= {name: verdict.get("close"), f"{name}_min_rtol": verdict.get("min_rtol")}
    return found | {"failing": [name for name, one in profiles.items() if not one["close"]] if profiles else None}
