"""Which module and function of the forward pass a node of autograd's graph belongs to, whose operators run backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

_MARK = "harness"
_ACCUMULATES = "AccumulateGrad"


@dataclass(frozen=True)
class Node:
    """The node that runs.

    Attributes:
        name: its class, such as `NativeLayerNormBackward0`.
        module: path of the module whose forward made it, or whose parameter's gradient it adds up.
        of: the function of the forward pass that made it, or the parameter's name; empty where neither is known.
    """

    name: str
    module: str
    of: str


class GraphNodes:
    """Marks nodes while the forward pass makes them, and reads the marks while the backward pass runs them."""

    def __init__(self) -> None:
        self._parameters: dict[int, str] = {}

    def know(self, parameters: Iterable[tuple[str, Any]]) -> None:
        """Learn the names of a model's parameters."""
        self._parameters = {id(parameter): name for name, parameter in parameters}

    def mark(self, result: Any, module: str, function: str) -> None:
        """Mark every node behind a call's result that no earlier call made."""
        waiting = [tensor.grad_fn for tensor in _tensors(result)]
        while waiting:
            node = waiting.pop()
            if node is None or _MARK in node.metadata:
                continue
            node.metadata[_MARK] = (module, function)
            waiting += [before for before, _number in node.next_functions]

    def running(self) -> Node | None:
        """The node that runs now; None outside of the backward pass, and where this torch does not tell."""
        current = getattr(torch._C, "_current_autograd_node", None)
        node = current() if current else None
        if node is None:
            return None
        name = node.name().split("::")[-1]
        parameter = self._parameters.get(id(getattr(node, "variable", None))) if name == _ACCUMULATES else None
        if parameter is not None:
            return Node(name, parameter.rpartition(".")[0], parameter)
        return Node(name, *node.metadata.get(_MARK, ("", "")))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
