"""One training step, run by itself: colbert-ai's own `train()` from the state in which a step of another run began."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from harness.worker import train_state
from harness.worker.calls import Call, each_again, named_modules, resolve
from harness.worker.capture import Tap
from harness.worker.notes import Notes
from harness.worker.recording import Recorder, Shelf
from harness.worker.setting import Setting
from harness.worker.train_capture import Losses, StepCapture
from harness.worker.train_drive import drive
from harness.worker.train_watch import Parts, Stop, Watcher

TRAINING_STEP = "training step"


class _OneStep(Watcher):
    """Begins training in a state, and ends it after one step.

    Args:
        folder: of the state.
        begin: called with the parts once the state is in place.
    """

    def __init__(self, folder: str, begin: Callable[[Parts], None] | None = None) -> None:
        self._folder, self._begin, self._begun = folder, begin, False

    def batch(self, step: int, parts: Parts, batch: train_state.Batch) -> train_state.Batch:  # noqa: ARG002
        """See `Watcher`."""
        if self._begun:
            raise Stop
        self._begun = True
        batch = train_state.load(self._folder, parts)
        if self._begin:
            self._begin(parts)
        return batch


class _Memory(Tap):
    """Keeps artifacts in memory, and writes nothing."""

    def __init__(self) -> None:
        super().__init__("", "digests", {}, Notes())
        self.tensors: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Keep an artifact."""
        self.tensors[name] = tensor
        return tensor


class _Row(Watcher):
    """What the job `train` records of one step: the watchers of that job."""

    def __init__(self) -> None:
        self._memory, self._losses = _Memory(), Losses()
        self._capture = StepCapture(self._memory, ())

    def batch(self, step: int, parts: Parts, batch: train_state.Batch) -> train_state.Batch:
        """See `Watcher`."""
        return self._capture.batch(step, parts, batch)

    def phase(self, step: int, name: str) -> None:
        """See `Watcher`."""
        self._losses.phase(step, name)
        self._capture.phase(step, name)

    def made(self, step: int, name: str, tensor: torch.Tensor) -> None:
        """See `Watcher`."""
        self._losses.made(step, name, tensor)
        self._capture.made(step, name, tensor)

    def end(self, step: int) -> None:
        """See `Watcher`."""
        self._capture.end(step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The step's row of each artifact, by name."""
        self._capture.write(1)
        return {**self._memory.tensors, "loss": self._losses.rows_so_far()}


class _Recorded(Watcher):
    """Writes down the calls of a step, but for those of another watcher."""

    def __init__(self, recorder: Recorder, other: Watcher) -> None:
        self._recorder, self._other = recorder, other
        self._recording = contextlib.ExitStack()

    def batch(self, step: int, parts: Parts, batch: train_state.Batch) -> train_state.Batch:
        """See `Watcher`."""
        batch = self._other.batch(step, parts, batch)
        self._recorder.know(named_modules(parts.model), parts.parameters())
        self._recording.enter_context(self._recorder.recording())
        return batch

    def phase(self, step: int, name: str) -> None:
        """See `Watcher`."""
        with self._recorder.quiet():
            self._other.phase(step, name)
        self._recorder.enter(name)

    def made(self, step: int, name: str, tensor: torch.Tensor) -> None:
        """See `Watcher`."""
        with self._recorder.quiet():
            self._other.made(step, name, tensor)

    def end(self, step: int) -> None:
        """See `Watcher`."""
        self.close()
        self._other.end(step)

    def close(self) -> None:
        """Record no more; a step that ends early has no end that a watcher sees."""
        self._recording.close()


class TrainingStep:
    """A training step, as the jobs `record`, `replay` and `step` run it.

    Args:
        cell: of one of these jobs: what the job `train` is given, `state` (a folder that it left, see `train_state`)
            `first`, the number of the step, and `phases`, those whose calls are wanted.
        out_dir: colbert-ai writes below it while it trains.
        phases: times and names the phases of the job.

    Raises:
        Ended: `unsupported` where it cannot run here.
    """

    def __init__(self, cell: dict[str, Any], out_dir: str, phases: Any) -> None:
        Setting.imported(cell, phases)
        self._cell, self._out = cell, out_dir
        with open(cell["triples"], encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        self._lines = lines[cell["first"] * cell["settings"]["bsize"] :]

    def run(self) -> dict[str, torch.Tensor]:
        """Run it as the job does; returns the row that it gives of each artifact."""
        seen = _Row()
        self._drive([self._from_state(), seen])
        return seen.tensors()

    def record(self, shelf: Shelf) -> tuple[list[Call], dict[str, torch.Tensor]]:
        """Run it with every call written down; returns its calls and its outputs."""
        recorder, seen = Recorder(shelf, {}, self._cell.get("phases")), _Row()
        with contextlib.closing(_Recorded(recorder, seen)) as recorded:
            self._drive([self._from_state(), recorded])
        return recorder.calls, seen.tensors()

    def again(self, calls: list[Call], source: Shelf, target: Shelf) -> list[dict[str, Any]]:
        """Make each call of a recording again here, with the recording's weights; see `each_again`."""
        found: list[dict[str, Any]] = []

        def begin(parts: Parts) -> None:
            modules = named_modules(parts.model)
            found.extend(each_again(calls, lambda call: resolve(call, modules), source, target))
            raise Stop

        self._drive([self._from_state(begin)])
        return found

    def _from_state(self, begin: Callable[[Parts], None] | None = None) -> Watcher:
        return _OneStep(self._cell["state"], begin)

    def _drive(self, watchers: Sequence[Watcher]) -> None:
        drive(self._cell, self._out, watchers, self._lines, self._cell["first"])
