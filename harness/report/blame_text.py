"""What `blame` found, as lines and as rows of its table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import printable
from harness.explain.blame import Blame, Suspects
from harness.explain.pair import Pair
from harness.explain.units import NOT_EXCHANGEABLE, exchanged
from harness.report.parquet import picked

Versions = Mapping[str, tuple[str | None, str | None]]
"""Package to its versions in A and in B; None where it is not there."""


def suspect_lines(differing: Suspects) -> Iterator[str]:
    """What can be exchanged, with its parts where it cannot be exchanged one by one, and why."""
    for unit in differing.units:
        yield f"{unit.name}: {unit.versions or '; '.join(unit.contents)}"
        for part in unit.parts:
            yield f"  {part.name}: {part.versions or '; '.join(part.contents)}"
    if differing.warning:
        yield differing.warning


def lines(found: Blame, a: str, b: str, left_out: Sequence[str]) -> Iterator[str]:
    """Every counterfactual, what was left out, and the answer."""
    for tried in found.tried:
        base, other = (a, b) if tried.base == "A" else (b, a)
        reason = f" ({tried.outcome}: {tried.reason})" if tried.reason else ""
        yield printable(f"{base} with {', '.join(tried.units)} of {other}{tried.remark}: {tried.result}{reason}")
    if left_out:
        yield f"Not exchanged, because neither site folder holds them: {', '.join(left_out)}."
    yield found.sentence


def rows(found: Blame, pair: Pair, versions: Versions) -> list[dict[str, Any]]:
    """One row per counterfactual, for `blame.parquet`, and per part of a unit that cannot be exchanged by itself.

    One in all where none was needed.
    """
    a, b = pair.a.cell.label, pair.b.cell.label
    common = {"a": a, "b": b, "verdict": found.sentence}

    def named(packages: Sequence[str]) -> dict[str, str]:
        return {
            "packages": ",".join(packages),
            "versions": json.dumps({p: versions[p] for p in packages}, sort_keys=True),
        }

    tried = [
        {
            **common,
            **picked(o, "base", "result", "outcome", "reason", "digest"),
            **named(exchanged(found.units, o)),
            "what": ",".join(o.units),
        }
        for o in found.tried
    ]
    never = [
        {**common, **named(part.packages), "what": part.name, "result": NOT_EXCHANGEABLE, "reason": unit.inseparable}
        for unit in found.units
        for part in unit.parts
    ]
    return tried + never or [common]
