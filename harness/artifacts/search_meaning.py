"""What the numbers of two searches mean, side by side: of how many queries an artifact differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.artifacts.source import ArtifactSource
from harness.tensors.dtypes import Array
from harness.tensors.tensor import Tensor


class SearchMeaning:
    """See `harness.artifacts.kind.Meaning`. What a ranking makes of it is for `harness rankings` to say."""

    first = ""

    def __init__(self, a: ArtifactSource, b: ArtifactSource) -> None:
        self.a, self.b = a, b

    def facts(self, name: str, left: Tensor | None, right: Tensor | None) -> dict[str, Any]:
        """Queries, and those of which the artifact differs: rows of it, or stretches of a ragged one."""
        if left is None or right is None or left.dtype != right.dtype:
            return {}
        sides = [self._by_query(name, side, tensor) for side, tensor in ((self.a, left), (self.b, right))]
        if sides[0] is None or sides[1] is None or len(sides[0]) != len(sides[1]):
            return {}
        changed = sum(not _same(one, other) for one, other in zip(*sides, strict=True))
        return {"queries_n": len(sides[0]), "queries_n_mismatch": changed}

    def _by_query(self, name: str, side: ArtifactSource, tensor: Tensor) -> list[Array] | None:
        """A query's part each; None of what belongs to no query, as an index does."""
        queries = "found"
        if queries not in side.names():
            return None
        number = side.load(queries).n
        lengths = f"{name}_lengths"
        if lengths in side.names():
            sizes = side.load(lengths).flat
            if len(sizes) != number or int(sizes.sum()) != tensor.shape[0]:
                return None
            return np.split(tensor.data, np.cumsum(sizes)[:-1])
        return list(tensor.data) if tensor.shape[:1] == (number,) else None

    def prepare(self) -> None:
        """Nothing."""

    def notes(self, facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:  # noqa: ARG002 - part of the protocol
        """None."""
        return iter(())


def _same(left: Array, right: Array) -> bool:
    """Bit for bit: a NaN is a NaN's equal."""
    return left.shape == right.shape and left.tobytes() == right.tobytes()
