"""Probes as a worker would leave them, taken into a store of a test's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.environments.device import Device
from harness.environments.lockfile import lock_path, read_lock
from harness.running.job import JobResult
from harness.running.probes import probe_spec, take_result
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import MATRIX, ROOT, planned

SMALL = np.arange(6, dtype=np.float32).reshape(2, 3)
Case = tuple[str, str, np.ndarray[Any, Any]]


class ProbeBench:
    """A store, and cells as a job would leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.count = folder, Store(folder / "store"), 0

    def spec(self, version: str, probe: str, repeat: int = 0) -> CellSpec:
        """What `harness plan` would name."""
        of = planned(version)
        lock = read_lock(lock_path(ROOT / "locks", version, "cpu"))
        device = Device("cpu", of.device)
        made = probe_spec(MATRIX, MATRIX.jobs.index, version, lock, probe, of.checkpoint, device, "cpu")
        return made.again(repeat)

    def cell(
        self, version: str, cases: Sequence[Case] = (), probe: str = "sort", *, repeat: int = 0,
        facts: Sequence[dict[str, Any]] = (), refused: Sequence[dict[str, str]] = (), outcome: str = "ok",
        reason: str = "",
    ) -> Cell:  # fmt: skip
        """Store what a probe left."""
        self.count += 1
        folder = self.folder / f"left-{self.count}"
        folder.mkdir()
        records = []
        arrays = [(*case, "result") for case in cases]
        arrays += [(f["case"], f["fact"], array, "pair") for f in facts for array in f.get("arrays", ())]
        for number, (case, tensor, array, role) in enumerate(arrays):
            write_safetensors(folder / f"{number:05}.safetensors", {"tensor": Tensor.of(array)})
            records.append({"case": case, "tensor": tensor, "file": f"{number:05}.safetensors", "role": role})
        files = iter(r["file"] for r in records if r["role"] == "pair")
        done_facts = [
            {"case": f["case"], "fact": f["fact"], "holds": f["holds"], "note": f.get("note", ""),
             "pair": [next(files), next(files)] if "arrays" in f else None}
            for f in facts
        ]  # fmt: skip
        done = {"outcome": outcome, "reason": reason, "tensors": records, "facts": done_facts,
                "refused": list(refused), "seconds": 0.5}  # fmt: skip
        (folder / "done.json").write_text(json.dumps(done))
        spec = self.spec(version, probe, repeat)
        cell = take_result(self.store, spec, folder, JobResult("ok", "", folder, {}))
        assert self.store.get(spec.key) == cell
        return cell
