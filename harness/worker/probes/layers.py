"""Output of every layer of the checkpoint's model, by forward hooks, in full and in mixed precision."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch

from harness.worker.probes.bench import Bench

_LAYER = re.compile(r"(^|\.)(embeddings|(layers?|h)\.\d+)$")


@contextlib.contextmanager
def _hooked(layers: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Collect each layer's output by path while the `with` block runs."""
    seen: dict[str, torch.Tensor] = {}

    def hook(path: str) -> Any:
        def note(_module: Any, _inputs: Any, output: Any) -> None:
            seen[path] = output[0] if isinstance(output, tuple) else output

        return note

    handles = [module.register_forward_hook(hook(path)) for path, module in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def run(bench: Bench) -> None:
    """Hook the embeddings and each encoder layer, then encode fixed token ids in batches of 8 and 32."""
    layers = {path: m for path, m in bench.model().LM.named_modules() if _LAYER.search(path)}
    for precision, context in bench.precisions().items():
        for batch in (8, 32):
            with bench.case(f"{precision} batch {batch}") as case:
                with _hooked(layers) as seen, context():
                    found = bench.embed(*bench.tokens(batch))
                for path, tensor in {**{f"bert.{path}": t for path, t in seen.items()}, **found}.items():
                    case.put(path, tensor)
