"""The job `probe`: run probes one after the other; one that fails does not stop the others."""

from __future__ import annotations

import importlib
import os
import traceback
from typing import Any

import torch

from harness.worker.outcomes import Ended
from harness.worker.probes.bench import Bench
from harness.worker.setting import Setting


def probe(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Run `cell["probes"]`, names of modules in `harness.worker.probes`.

    Args:
        cell: `probes`, `checkpoint`, `settings`, `device`.
        out_dir: gets a folder for each probe, see `Bench`.
        phases: times and names the phases; the phase of a probe is `probe NAME`.

    Returns:
        `probes`: name to outcome and reason.

    Raises:
        Ended: nothing can run here at all.
    """
    setting = Setting.imported(cell, phases)
    ended = {}
    for name in cell["probes"]:
        with phases(f"probe {name}"), torch.no_grad():
            ended[name] = _run(name, setting, os.path.join(out_dir, name))
    return {"probes": ended}


def _run(name: str, setting: Setting, folder: str) -> dict[str, Any]:
    bench = Bench(name, setting, folder)
    try:
        importlib.import_module(f"harness.worker.probes.{name}").run(bench)
    except Ended as error:
        return bench.finish(error.outcome, error.reason)
    except Exception as error:
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        lines = str(error).strip().splitlines() or [""]
        return bench.finish("out_of_memory" if memory else "crashed", f"{type(error).__name__}: {lines[0]}"[:500])
    return bench.finish()
