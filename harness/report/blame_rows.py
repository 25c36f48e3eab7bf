"""What `blame` found as rows of its table."""

from __future__ import annotations

import json
from typing import Any

from harness.explain.blame import Blame
from harness.explain.pair import Pair
from harness.explain.units import Outcome


def rows(found: Blame, pair: Pair, versions: dict[str, tuple[str | None, str | None]]) -> list[dict[str, Any]]:
    """One row per counterfactual, for `blame.parquet`; one in all where none was needed."""
    a, b = pair.a.cell.label, pair.b.cell.label
    by_name = {unit.name: unit.packages for unit in found.units}
    common = {"a": a, "b": b, "verdict": found.sentence}

    def exchanged(o: Outcome) -> list[str]:
        return [p for p in (*(p for name in o.units for p in by_name[name]), *o.along) if p not in o.kept]

    return [
        {
            **common,
            "base": o.base,
            "packages": ",".join(exchanged(o)),
            "versions": json.dumps({p: versions[p] for p in exchanged(o)}, sort_keys=True),
            "what": ",".join(o.units),
            "result": o.result,
            "outcome": o.outcome,
            "reason": o.reason,
            "digest": o.digest,
        }
        for o in found.tried
    ] or [common]
