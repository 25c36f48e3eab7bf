"""The training job: colbert-ai's own `train()`, unmodified on disk; what is recorded of it is of one rank."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from harness.worker.capture import Tap
from harness.worker.index import finished, model_facts, note_unknown, refuse_remote_code, skip_extensions
from harness.worker.notes import Notes
from harness.worker.train_capture import Losses, StepCapture, flat
from harness.worker.train_drive import SETTINGS, drive, launch
from harness.worker.train_state import Saved
from harness.worker.train_watch import Parts, Watcher


class _Beginning(Watcher):
    """Does something when the first step begins, with everything loaded."""

    def __init__(self, act: Callable[[Parts], None]) -> None:
        self._act: Callable[[Parts], None] | None = act

    def batch(self, step: int, parts: Parts, batch: Any) -> Any:  # noqa: ARG002 - as every watcher
        """See `Watcher`."""
        if self._act:
            self._act(parts)
            self._act = None
        return batch


__all__ = ["launch", "run"]


def run(
    cell: dict[str, Any], out_dir: str, phases: Any, notes: Notes, rank: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Train a model.

    Args:
        cell: the cell's specification (`triples`, `queries`, `passages`, `checkpoint`, `settings`, `device`, `capture`,
            `full_steps`; `state_at`, optional: the step before which it ends, to leave its state).
        out_dir: gets `intermediates/`, and with `state_at`, `state/` (see `train_state`).
        phases: times and names the phases.
        notes: gets the reason of what could not be recorded.
        rank: runs the part of one rank of several; all of it is run when absent.

    Returns:
        What ran, as the index job says it, `steps`, their number, and `parameters`: `name`, `shape` and, in the
        artifacts that hold them all, `offset` of each.
    """
    with phases("import"):
        skip_extensions(cell)
        refuse_remote_code(cell["checkpoint"])
        import colbert.training.training  # noqa: F401 - takes long, and belongs to this phase
    gpu = cell["device"] != "cpu"
    seen: dict[str, Any] = {}
    tap = Tap(os.path.join(out_dir, "intermediates"), cell["capture"], cell.get("swap") or {}, notes)
    losses = Losses()
    capture = StepCapture(tap, cell.get("full_steps", ()) if cell["capture"] == "full" else ())
    with contextlib.ExitStack() as phase:

        def begin(parts: Parts) -> None:
            seen.update(notes.gather("observed", model_facts(parts.model, parts.amp, gpu)))
            phase.close()
            phase.enter_context(phases("train"))

        phase.enter_context(phases("load"))
        watchers: list[Watcher] = [_Beginning(begin), losses, *([capture] if tap.enabled else [])]
        if "state_at" in cell:
            watchers.append(Saved(cell["state_at"], os.path.join(out_dir, "state")))
        parts = drive(cell, out_dir, watchers, cell["triples"], rank=rank)
    with phases("write"):
        named = list(parts.parameters())
        if tap.enabled:
            capture.write(len(losses.rows))
        tap.final("loss", losses.rows_so_far())
        tap.final("trained", flat([one for _name, one in named], [one for _name, one in named]))
    note_unknown(cell, notes, SETTINGS)
    offset, parameters = 0, []
    for name, parameter in named:
        parameters.append({"name": name, "shape": list(parameter.shape), "offset": offset})
        offset += parameter.numel()
    return {**finished(tap, seen, gpu), "steps": len(losses.rows), "parameters": parameters}
