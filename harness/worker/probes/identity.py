"""Embeddings with each Linear replaced by Identity in turn: without its culprit, a difference is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from harness.worker.probes.bench import Bench


class Identity(torch.nn.Module):
    """Passes its input on, cut or filled up with zeros to the width that the Linear gave. Nothing is computed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with `width` as its last size."""
        missing = self.width - x.shape[-1]
        return torch.nn.functional.pad(x, (0, missing)) if missing > 0 else x[..., : self.width]


def _groups(linears: dict[str, torch.nn.Linear]) -> Iterator[tuple[str, list[str]]]:
    """What is replaced together: nothing, each Linear, the same one in all layers, all that change the width, all."""
    paths = list(linears)
    yield "nothing", []
    for path in paths:
        yield path, [path]
    kinds: dict[str, list[str]] = {}
    for path in paths:
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", path), []).append(path)
    for kind, members in kinds.items():
        if len(members) > 1:
            yield kind, members
    wide = [
        path
        for members in kinds.values()
        for path in members
        if len(members) > 1 and linears[path].in_features != linears[path].out_features
    ]
    if wide:
        yield "feed-forward of all layers", wide
    yield "every Linear", paths


def run(bench: Bench) -> None:
    """Replace, encode a batch of 8, put back."""
    model = bench.model()
    linears = bench.linears()
    tokens = bench.tokens(8)
    for precision, context in bench.precisions().items():
        for label, paths in _groups(linears):
            with bench.case(f"{precision} without {label}") as case:
                try:
                    for path in paths:
                        parent, _, name = path.rpartition(".")
                        setattr(model.get_submodule(parent), name, Identity(linears[path].out_features))
                    with context():
                        case.put("embeddings", bench.embed(*tokens)["embeddings"])
                finally:
                    for path in paths:
                        parent, _, name = path.rpartition(".")
                        setattr(model.get_submodule(parent), name, linears[path])
