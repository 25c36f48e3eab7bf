"""torch.nn.functional.normalize in float32 and float16, on the CPU and on the GPU."""

from __future__ import annotations

import torch

from harness.worker.probes.bench import Bench


def run(bench: Bench) -> None:
    """Normalise rows as colbert-ai does: centroids over the last dimension, embeddings over the third."""
    dim = int(bench.setting.cell["settings"]["dim"])
    shapes = {"centroids": (512, dim), "embeddings": (4, 32, dim), "width 128": (256, 128), "width 1000": (32, 1000)}
    for device in bench.devices:
        for dtype in (torch.float32, torch.float16):
            for name, shape in shapes.items():
                with bench.case(f"{device} {str(dtype)[6:]} {name}") as case:
                    x = bench.normal(name, *shape).to(dtype).to(device)
                    case.put("norm", torch.norm(x, p=2, dim=-1, keepdim=True))
                    case.put("normalized", torch.nn.functional.normalize(x, p=2, dim=-1))
