"""Places where one job runs at a time: GPUs, shares of them, or the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.environments.gpus import Gpu, foreign, gpu_lock, processes_on, visible_gpus
from harness.flock import Held, try_hold, whose
from harness.home import Home
from harness.store.cell import Cell

_GPU_STRIKES = 2


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


class Slots:
    """All places of a sweep.

    Args:
        home: whose sweeps share the GPUs.
        gpus: an empty list leaves the choice to CUDA.
        jobs: places on each GPU, or on the CPU.
        note: called with a sentence for the user.
    """

    def __init__(self, home: Home, gpus: Sequence[Gpu], jobs: int, note: Callable[[str], object]) -> None:
        self.all = [Slot(gpu, number) for number in range(jobs) for gpu in (gpus or (None,))]
        self._home, self._note = home, note
        self._lock = threading.Lock()

    def hold(self, slot: Slot) -> list[Held] | None:
        """The lock of a slot's GPU, if it has one; None while another sweep has it."""
        if slot.gpu is None:
            return []
        # One cell at a time on each GPU, also where two sweeps are at work.
        path = gpu_lock(self._home, slot.gpu, slot.number)
        held = try_hold(path)
        if held is not None:
            return [held]
        if not slot.waits:
            slot.waits = True
            self._note(f"GPU {slot.gpu.index} is in use by another sweep ({whose(path)}); waiting for it")
        return None

    def others(self, slot: Slot) -> list[dict[str, Any]]:
        """Processes on a slot's GPU that are none of ours."""
        if slot.gpu is None:
            return []
        alone = sum(other.gpu == slot.gpu for other in self.all) == 1
        return [asdict(process) for process in foreign(processes_on(slot.gpu), alone=alone)]

    def observed(self, slot: Slot, label: str, before: list[dict[str, Any]]) -> dict[str, Any]:
        """What a cell keeps of its GPU, and of who else was on it before the job and after it."""
        if slot.gpu is None:
            return {}
        others = {process["pid"]: process for process in (*before, *self.others(slot))}
        if others:
            names = ", ".join(f"{p['name']} (process {p['pid']})" for p in others.values())
            self._note(f"{label}: warning: GPU {slot.gpu.index} was shared with {names}")
        return {
            "gpu": {"index": slot.gpu.index, "uuid": slot.gpu.uuid},
            "foreign_processes": list(others.values()),
        }

    def retire(self, slot: Slot, cell: Cell | None) -> bool:
        """Whether a slot is given up, because its GPU is lost and there are others."""
        lost = cell is not None and cell.details.get("cause") == "gpu_lost"
        slot.strikes = slot.strikes + 1 if lost else 0
        if not lost or slot.gpu is None:
            return False
        gone = all(gpu.uuid != slot.gpu.uuid for gpu in visible_gpus())
        with self._lock:
            others = any(other is not slot and other.strikes < _GPU_STRIKES for other in self.all)
            if not others or not (gone or slot.strikes >= _GPU_STRIKES):
                return False
            slot.strikes = _GPU_STRIKES
        self._note(f"GPU {slot.gpu.index} is given up; the other GPUs go on")
        return True
