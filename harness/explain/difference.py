"""How one artifact of a cell differs from the same of another, in as far as the store shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.artifacts.kind import Made
from harness.errors import UnreadableTensor
from harness.store.cell import Artifact
from harness.store.store import Store
from harness.tensors.metrics import Metrics, measure
from harness.tensors.profiles import BUILTIN, Profile
from harness.tensors.tensor import Tensor
from harness.words import ulps


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


def difference(store: Store, a: Artifact | None, b: Artifact | None, made: Made | None = None) -> Difference:
    """Measure the values of two artifacts where both sides are kept and have one dtype and shape.

    Not those that are declared (`made`) to be digests.
    """
    if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape) or (made is not None and made.digests):
        return Difference(a, b)
    return Difference(a, b, measured(lambda: store.load(a), lambda: store.load(b)))


def measured(a: Callable[[], Tensor], b: Callable[[], Tensor], profiles: Sequence[Profile] = BUILTIN) -> Metrics | None:
    """Measure two tensors where both can be loaded and have one dtype and shape; None elsewhere."""
    try:
        x, y = a(), b()
    except UnreadableTensor:
        return None
    return measure(x, y, profiles) if (x.dtype, x.shape) == (y.dtype, y.shape) else None


def amount(metrics: Metrics) -> str:
    """`n of m elements, at most x (k ULP)`."""
    ulp = f" ({ulps(metrics.max_abs_ulp)})" if metrics.max_abs_ulp is not None else ""
    return f"{metrics.n_mismatch:,} of {metrics.n:,} elements, at most {metrics.max_abs:.3g}{ulp}"
