"""bucketize of residuals by cutoffs, numbers equal to a cutoff included."""

from __future__ import annotations

import numpy as np
import torch

from harness.worker.probes.bench import Bench


def run(bench: Bench) -> None:
    """Bucket seeded residuals, a third of which lie exactly on a cutoff, as colbert-ai does with 1, 2 and 4 bits."""
    for device in bench.devices:
        for nbits in (1, 2, 4):
            for dtype in (torch.float32, torch.float16):
                with bench.case(f"{device} {str(dtype)[6:]} {nbits} bits") as case:
                    cutoffs = torch.from_numpy(np.sort(bench.normal(f"cutoffs {nbits}", 2**nbits - 1).numpy()))
                    x = bench.normal(f"residuals {nbits}", 3000)
                    x[::3] = cutoffs[bench.integers(f"chosen {nbits}", 0, len(cutoffs), 1000)]
                    x, cutoffs = x.to(dtype).to(device), cutoffs.to(dtype).to(device)
                    case.put("buckets", torch.bucketize(x, cutoffs).to(torch.uint8))
                    case.put("buckets, right", torch.bucketize(x, cutoffs, right=True).to(torch.uint8))
