"""What `blame` found as rows of its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.explain.blame import Blame
from harness.explain.pair import Pair
from harness.explain.units import NOT_EXCHANGEABLE, exchanged


def rows(found: Blame, pair: Pair, versions: dict[str, tuple[str | None, str | None]]) -> list[dict[str, Any]]:
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
            **named(exchanged(found.units, o)),
            "base": o.base,
            "what": ",".join(o.units),
            "result": o.result,
            "outcome": o.outcome,
            "reason": o.reason,
            "digest": o.digest,
        }
        for o in found.tried
    ]
    never = [
        {**common, **named(part.packages), "what": part.name, "result": NOT_EXCHANGEABLE, "reason": unit.inseparable}
        for unit in found.units
        for part in unit.parts
    ]
    return tried + never or [common]
