"""Where the difference of a pair starts in the graph of artifacts; of training, in the first step that differs."""

from __future__ import annotations

from harness.artifacts.graph import Place, trace
from harness.explain.pair import Pair
from harness.explain.stepwise import Parting
from harness.store.repeats import unrecorded


def places_of(pair: Pair, parting: Parting | None) -> tuple[Place, ...]:
    """Every artifact of a pair, in the order of the pipeline.

    Args:
        pair: A and B.
        parting: of a pair that goes in steps, where they part. What differs in nobody knows which step has no place.
    """
    noise, began, unread = (pair.noise, None, {}) if parting is None else (parting.noise, parting.began, parting.unread)
    unknown = unrecorded(pair.a.cell, pair.b.cell) | unread.keys()
    return trace(pair.a.digests(), pair.b.digests(), noise=noise, unknown=unknown, began=began, kind=pair.kind)
