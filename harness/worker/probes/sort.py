"""Order of the indices that sort gives for ties, on the CPU and on the GPU; stable or not."""

from __future__ import annotations

import torch

from harness.worker.probes.bench import Bench, same_bits


def run(bench: Bench) -> None:
    """Sort numbers with many ties as colbert-ai sorts codes (float32), and ask whether ties keep their order."""
    for device in bench.devices:
        for dtype in (torch.float32, torch.int64, torch.int32, torch.uint8):
            for size in (16, 1000, 4096, 50_000):
                with bench.case(f"{device} {str(dtype)[6:]} of {size}") as case:
                    x = bench.integers(f"codes {size}", 0, 250, size).to(dtype).to(device)
                    found = x.sort()
                    case.put("values", found.values)
                    case.put("indices", found.indices)
                    kept = torch.sort(x, stable=True).indices
                    case.put("indices, stable", kept)
                    case.fact("stable", same_bits(found.indices, kept), pair=(found.indices, kept))
