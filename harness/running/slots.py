"""Places where one job runs at a time: GPUs, shares of them, or the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from harness.environments.gpus import Gpu

GPU_STRIKES = 2


@dataclass
class Slot:
    """A place where one job runs at a time.

    Attributes:
        gpu: None where there is nothing to choose.
        number: of this place on its GPU, from 0.
        strikes: how many jobs in a row lost it.
        waits: whether it was said that another sweep has it.
    """

    gpu: Gpu | None = None
    number: int = 0
    strikes: int = 0
    waits: bool = False
