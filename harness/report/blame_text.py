"""What `blame` found, as lines and as rows of its table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import printable
from harness.explain.blame import Blame
from harness.explain.pair import Pair
from harness.explain.units import Outcome
from harness.report.parquet import picked

Versions = Mapping[str, tuple[str | None, str | None]]
"""Package to its versions in A and in B; None where it is not there."""


def lines(found: Blame, a: str, b: str, versions: Versions) -> Iterator[str]:
    """What can be exchanged, every counterfactual, and the answer."""
    for unit in found.units:
        of = unit.versions or "; ".join(
            f"{p} {versions[p][0] or 'absent'} -> {versions[p][1] or 'absent'}" for p in unit.packages
        )
        yield f"{unit.name}: {of}"
    for tried in found.tried:
        base, other = (a, b) if tried.base == "A" else (b, a)
        reason = f" ({tried.outcome}: {tried.reason})" if tried.reason else ""
        yield printable(f"{base} with {', '.join(tried.units)} of {other}{tried.remark}: {tried.result}{reason}")
    if found.left_out:
        yield f"Not exchanged, because neither site folder holds them: {', '.join(found.left_out)}."
    yield found.sentence


def rows(found: Blame, pair: Pair, versions: Versions) -> list[dict[str, Any]]:
    """One row per counterfactual, for `blame.parquet`; one in all where none was needed."""
    a, b = pair.a.cell.label, pair.b.cell.label
    by_name = {unit.name: unit.packages for unit in found.units}
    common = {"a": a, "b": b, "verdict": found.sentence}

    def exchanged(o: Outcome) -> list[str]:
        return [p for p in (*(p for name in o.units for p in by_name[name]), *o.along) if p not in o.kept]

    return [
        {
            **common,
            **picked(o, "base", "result", "outcome", "reason", "digest"),
            "packages": ",".join(exchanged(o)),
            "versions": json.dumps({p: versions[p] for p in exchanged(o)}, sort_keys=True),
            "what": ",".join(o.units),
        }
        for o in found.tried
    ] or [common]
