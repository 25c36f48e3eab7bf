"""float16 before and after normalising, and the rounding of float32 to float16 itself."""

from __future__ import annotations

import numpy as np
import torch

from harness.worker.probes.bench import Bench, same_bits


def _awkward() -> torch.Tensor:
    """Float32 numbers that lie on and beside the middle of two float16 numbers, subnormal and overflowing ones too."""
    bits = np.arange(0, 1 << 15, 61, dtype=np.uint16)
    lower = bits.view(np.float16).astype(np.float32)
    upper = (bits + np.uint16(1)).view(np.float16).astype(np.float32)
    finite = np.isfinite(lower) & np.isfinite(upper)
    middle = (lower[finite] + upper[finite]) / np.float32(2)
    beside = np.concatenate([middle, np.nextafter(middle, lower[finite]), np.nextafter(middle, upper[finite])])
    more = np.array([65504, 65519.996, 65520, 1e6, 2.0**-25, 2.0**-24, 2.0**-26, np.inf], np.float32)
    return torch.from_numpy(np.concatenate([beside, more, -beside, -more]).astype(np.float32))


def run(bench: Bench) -> None:
    """colbert-ai normalises centroids first and halves them then; the other order gives other bits."""
    dim = int(bench.setting.cell["settings"]["dim"])
    for device in bench.devices:
        with bench.case(f"{device} rounding") as case:
            case.put("half", _awkward().to(device).half())
        with bench.case(f"{device} order") as case:
            x = bench.normal("centroids", 256, dim).to(device)
            after = torch.nn.functional.normalize(x, dim=-1).half()
            case.put("normalize, then half", after)
            before = torch.nn.functional.normalize(x.half(), dim=-1)
            case.put("half, then normalize", before)
            case.fact("same_in_either_order", same_bits(after, before), pair=(after, before))
