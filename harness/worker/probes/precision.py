"""Embeddings in full against mixed precision, for every batch size from 1 to 33."""

from __future__ import annotations

from harness.worker.probes.bench import Bench, same_bits

_BATCHES = range(1, 34)


def run(bench: Bench) -> None:
    """Encode the first n of 33 passages together; within the version, does a passage depend on its batch?"""
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
                if whole is None:
                    continue
                pair = (whole[:batch], found["embeddings"])
                case.fact("batch_invariant", same_bits(*pair), f"against a batch of {_BATCHES[-1]}", pair)
