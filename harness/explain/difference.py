"""How one artifact of a cell differs from the same of another, in as far as the store shows it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UnreadableTensor
from harness.store.cell import Artifact
from harness.store.store import Store
from harness.tensors.metrics import Metrics, measure


@dataclass(frozen=True)
class Difference:
    """An artifact that is not the same on both sides.

    Attributes:
        a: in A; None where A has none.
        b: in B; None where B has none.
        metrics: of the values; None where they cannot be compared, or were not kept.
    """

    a: Artifact | None
    b: Artifact | None
    metrics: Metrics | None = None


def difference(store: Store, a: Artifact | None, b: Artifact | None) -> Difference:
    """Measure the values of two artifacts where both sides are kept and have one dtype and shape."""
    if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
        return Difference(a, b)
    try:
        return Difference(a, b, measure(store.load(a), store.load(b)))
    except UnreadableTensor:
        return Difference(a, b)


def amount(metrics: Metrics) -> str:
    """`n of m elements, at most x (k ULP)`."""
    ulp = f" ({metrics.max_ulp} ULP)" if metrics.max_ulp is not None else ""
    return f"{metrics.n_mismatch:,} of {metrics.n:,} elements, at most {metrics.max_abs:.3g}{ulp}"
