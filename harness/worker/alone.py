"""The job `step`: run one step by itself, with nothing recorded, and say what came out by digest.

What the counterfactual environments of `harness blame` run: each wants one answer, and quickly.
"""

from __future__ import annotations

from typing import Any

from harness.worker import steps
from harness.worker.recording import tensor_digest
from harness.worker.replay import prepare, read_inputs


def step(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:  # noqa: ARG001 - as every job
    """Run one step.

    Args:
        cell: as for the job `record`.
        out_dir: gets nothing.
        phases: times and names the phases.

    Returns:
        `outputs` (name to digest).
    """
    setting = prepare(cell, phases)
    with phases("step"):
        outputs = steps.run(cell["step"], setting, read_inputs(cell))
    return {"outputs": {name: tensor_digest(tensor) for name, tensor in outputs.items()}}
