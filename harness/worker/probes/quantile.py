"""quantile of residuals, from which bucket cutoffs and weights are made."""

from __future__ import annotations

import torch

from harness.worker.probes.bench import Bench


def run(bench: Bench) -> None:
    """Ask for the quantiles that colbert-ai asks for with 1, 2 and 4 bits, and for the mean beside them."""
    for device in bench.devices:
        for size in (1000, 9600, 96_000, 1_000_000):
            with bench.case(f"{device} of {size}") as case:
                x = bench.normal(f"residuals {size}", size).to(device)
                for nbits in (1, 2, 4):
                    options = 2**nbits
                    places = torch.arange(0, options, device=device) * (1 / options)
                    case.put(f"cutoffs, {nbits} bits", x.quantile(places[1:]))
                    case.put(f"weights, {nbits} bits", x.quantile(places + (0.5 / options)))
                case.put("mean", x.abs().mean())
