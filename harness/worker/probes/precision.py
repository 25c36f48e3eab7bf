"""Embeddings in full against mixed precision, for every batch size from 1 to 33."""

from __future__ import annotations

import torch

from harness.worker.probes.bench import FULL, Bench, same_bits

_BATCHES = range(1, 34)


def run(bench: Bench) -> None:
    """Encode the first n of 33 passages together; within the version, how far is mixed from full precision?

    And does a passage depend on its batch?
    """
    full: dict[int, torch.Tensor] = {}
    for precision, context in bench.precisions().items():
        whole = None
        with bench.case(f"{precision} batch {_BATCHES[-1]:02}"), context():
            whole = bench.embed(*bench.tokens(_BATCHES[-1]))["embeddings"]
        for batch in _BATCHES:
            with bench.case(f"{precision} batch {batch:02}") as case:
                with context():
                    found = bench.embed(*bench.tokens(batch))
                case.put("bert", found["bert"])
                case.put("embeddings", found["embeddings"])
                if precision == FULL:
                    full[batch] = found["embeddings"]
                elif batch in full:
                    # Both as float32, which holds every number of either, so that they can be measured.
                    pair = full[batch].float(), found["embeddings"].float()
                    case.fact("as_in_full_precision", same_bits(*pair), pair=pair)
                if whole is None:
                    continue
                pair = (whole[:batch], found["embeddings"])
                case.fact("batch_invariant", same_bits(*pair), f"against a batch of {_BATCHES[-1]}", pair)
