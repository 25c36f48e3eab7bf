"""Where the difference of a pair starts in the graph of artifacts; of training, in the first step that differs."""

from __future__ import annotations

from harness.artifacts.graph import Place, trace
from harness.explain.pair import Pair
from harness.explain.stepwise import beginnings, noisy
from harness.store.repeats import unrecorded


def places_of(pair: Pair) -> tuple[Place, ...]:
    """Every artifact of a pair, in the order of the pipeline."""
    a, b = pair.a.cell, pair.b.cell
    began, noise = None, pair.noise
    if pair.kind.stepwise:
        began = beginnings(pair.store, a, b)
        noise = noisy(pair, began)
    return trace(pair.a.digests(), pair.b.digests(), noise=noise, unknown=unrecorded(a, b), began=began, kind=pair.kind)
