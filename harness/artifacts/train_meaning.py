"""What the numbers of two trainings mean, side by side: in which step, and of which parameters, an artifact differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.artifacts.kind import JobKind, chunk_of
from harness.artifacts.source import ArtifactSource
from harness.artifacts.steps import apart, differing, nearest_to_loss
from harness.tensors.dtypes import DTYPES
from harness.tensors.tensor import Tensor

STREAMS = ("python", "numpy", "torch", "cuda")
"""The random-number states whose digests a row of `random_before` has, in this order."""
_BACKWARDS = frozenset(("gradients", "clipped"))
"""What a backward pass makes, whose order is not that of the parameters."""
_OF_PARAMETERS = (*_BACKWARDS, "first_moments", "second_moments", "weights")
_NAMED = 4


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model: where its elements are in an artifact that has those of all parameters.

    Attributes:
        name: as the checkpoint's file has it.
        offset: of its first element.
        shape: sizes of its dimensions.
    """

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def part(self) -> slice:
        """Where its elements are."""
        return slice(self.offset, self.offset + self.elements)


def parameters_of(source: ArtifactSource) -> list[Parameter]:
    """The parameters of a stored training's model, in their order, as its job listed them; empty where it did not."""
    listed = getattr(getattr(source, "cell", None), "details", {}).get("parameters")
    found = [_parameter(one) for one in listed] if isinstance(listed, list) else []
    return [one for one in found if one is not None] if None not in found else []


def _parameter(record: object) -> Parameter | None:
    """One of them; None where the record is none, for it comes from a file that anybody may have written."""
    if not isinstance(record, dict):
        return None
    name, shape, offset = (record.get(field) for field in ("name", "shape", "offset"))
    if not isinstance(name, str) or not isinstance(shape, list) or not _counts([offset, *shape]):
        return None
    return Parameter(name, int(str(offset)), tuple(shape))


def _counts(numbers: Sequence[object]) -> bool:
    return all(type(one) is int and 0 <= one < 1 << 40 for one in numbers)


class TrainMeaning:
    """See `harness.artifacts.kind.Meaning`. What curves and rankings make of it is for reports to say."""

    first = ""

    def __init__(self, kind: JobKind, a: ArtifactSource, b: ArtifactSource) -> None:
        self.kind, self.a, self.b = kind, a, b

    def facts(self, name: str, left: Tensor | None, right: Tensor | None) -> dict[str, Any]:
        """Steps in which it differs, and the first; of this one the parameters; of numbers of all, how far apart."""
        if left is None or right is None or left.dtype != right.dtype:
            return {}
        chunked = (chunk_of(name, f"{of}_*") for of in _OF_PARAMETERS)
        step = next((int(one) for one in chunked if one is not None), None)
        if name == "trained" or step is not None:
            return ({} if step is None else {"first_step": step}) | self._distance(left, right)
        if not left.shape or not right.shape:
            return {}
        known = self.kind.known(name)
        different = differing(left, right, digests=known is not None and known.digests)
        differ, both = different.any(axis=1), len(different)
        # A training that ends earlier differs from the step on that it does not have.
        steps = [*np.flatnonzero(differ).tolist(), *range(both, max(left.shape[0], right.shape[0]))]
        if not steps:
            return {}
        found = {"steps_n": max(left.shape[0], right.shape[0]), "steps_differ": len(steps), "first_step": steps[0]}
        return found | (self._in_step(name, left, right, steps[0]) if steps[0] < both else {})

    def prepare(self) -> None:
        """Nothing."""

    def notes(self, facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:  # noqa: ARG002 - part of the protocol
        """None."""
        return iter(())

    def _in_step(self, name: str, left: Tensor, right: Tensor, step: int) -> dict[str, Any]:
        """Whose digests differ in a step."""
        if name != "random_before" and (name not in _OF_PARAMETERS or len(left.shape) != 3):
            return {}
        one, other = left.data[step], right.data[step]
        if one.shape != other.shape or one.ndim != 2:
            return {}
        which = np.flatnonzero((one != other).any(axis=1)).tolist()
        if name == "random_before":
            return {"streams": [STREAMS[place] for place in which if place < len(STREAMS)]}
        names = [parameter.name for parameter in parameters_of(self.a)]
        named = [names[place] if len(names) == len(one) else f"parameter {place}" for place in which]
        if name in _BACKWARDS:
            named = [named[place] for place in nearest_to_loss(named)]
        return {"parameters_n": len(one), "parameters_differ": len(which), "first_parameters": named[:_NAMED]}

    def _distance(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """How far apart two models are, |a - b| / |b| in float64, and the parameter of which that is greatest."""
        if left.shape != right.shape or DTYPES[left.dtype].kind != "float" or left.data.dtype.kind != "f":
            return {}
        found: dict[str, Any] = {"relative_distance": apart(left.flat, right.flat).distance}
        parts = [one for one in parameters_of(self.a) if one.elements and one.offset + one.elements <= left.n]
        if not parts:
            return found
        far = {one.name: apart(left.flat[one.part], right.flat[one.part]).distance for one in parts}
        largest = max(far, key=lambda of: math.inf if math.isnan(far[of]) else far[of])
        return found | {"largest_parameter": largest, "largest_relative_distance": far[largest]}
