"""What is recorded of each step of a training; see docs/training.md.

Tensors are only read. What is a number or a digest stays on the device, and is copied to the host together with that of
many other steps, so that the GPU need not wait for the host.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from harness.worker.capture import Tap
from harness.worker.device_digest import Beside
from harness.worker.host_digest import digest_of, packed
from harness.worker.notes import Notes
from harness.worker.outcomes import Ended
from harness.worker.randomness import generators, put_back, streams
from harness.worker.train_watch import Parts, Watcher

ROWS = (
    "batch", "input_ids", "random_before", "scores", "scale", "gradients", "gradient_norm", "clipped", "skipped",
    "learning_rate", "first_moments", "second_moments", "weights",
)  # fmt: skip
"""What has one row for each step, beside the loss, in the order of a step."""

_STEPS_ON_DEVICE = 64
"""After so many, what was recorded is copied to the host."""


class Losses(Watcher):
    """The loss of each micro-batch, which is part of the job's result; one that is no number ends the job."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self._step: list[torch.Tensor] = []

    def made(self, step: int, name: str, tensor: torch.Tensor) -> None:  # noqa: ARG002 - as every watcher
        """Keep a loss."""
        if name == "loss":
            # As precise as it is, and at least float32.
            self._step.append(tensor.to(torch.promote_types(tensor.dtype, torch.float32)))

    def phase(self, step: int, name: str) -> None:
        """Look at the losses of a step when colbert-ai has, which waited for them: it costs no wait here.

        Raises:
            Ended: `invalid_output`, where one is NaN.
        """
        if name != "scaler" or not self._step:
            return
        self.rows.append(torch.stack(self._step).to("cpu"))
        self._step = []
        if self.rows[-1].isnan().any():
            raise Ended("invalid_output", f"The loss is NaN at step {step}.")

    def rows_so_far(self) -> torch.Tensor:
        """float32 of shape (steps, micro-batches)."""
        return torch.stack(self.rows) if self.rows else torch.zeros(0, 0)


class StepCapture(Watcher):
    """Gathers the rows of `ROWS`, and writes them when the training is over.

    Args:
        tap: writes artifacts.
        full: steps of which the tensors themselves are written.
    """

    def __init__(self, tap: Tap, full: Sequence[int]) -> None:
        self.tap, self.full = tap, frozenset(full)
        self.rows: dict[str, list[torch.Tensor]] = {name: [] for name in ROWS}
        self._fresh: dict[str, list[torch.Tensor]] = {name: [] for name in ROWS}
        self._scores: list[torch.Tensor] = []
        self._parts = Parts()
        self._parameters: list[torch.nn.Parameter] = []
        self._beside = Beside(torch.device("cpu"))
        self._count = torch.zeros(())

    @property
    def notes(self) -> Notes:
        """Why something was not recorded."""
        return self.tap.notes

    @contextlib.contextmanager
    def _recording(self, *names: str) -> Iterator[None]:
        started = time.perf_counter()
        with self.notes.recording(*names):
            yield
        self.tap.seconds += time.perf_counter() - started

    def _row(self, name: str, make: Callable[[], torch.Tensor]) -> None:
        if name not in self.notes.reasons:
            with self._recording(name):
                self._fresh[name].append(make().detach())

    def _tensors(self, step: int, **made: Callable[[], list[torch.Tensor | None]]) -> None:
        """Rows of digests, one a parameter, and the tensors themselves where they are asked for, or swapped."""
        for name, tensors in made.items():
            if self._whole(f"{name}_{step}", step):
                with self.notes.recording(f"{name}_{step}"):
                    held = flat(self._parameters, tensors())
                    self._put(tensors(), held, self.tap(f"{name}_{step}", held))
        names = [name for name in made if name not in self.notes.reasons]
        with self._recording(*names):
            # All at once: what a GPU is told takes longer than what it then does.
            found = self._beside.digests([one for name in names for one in made[name]()])
            for name, rows in zip(names, found.split(len(self._parameters))):  # noqa: B905 - not in Python 3.9
                self._fresh[name].append(rows)

    def _whole(self, name: str, step: int) -> bool:
        return step in self.full or name in self.tap.swap

    def _put(self, tensors: Sequence[torch.Tensor | None], held: torch.Tensor, swapped: torch.Tensor) -> None:
        """Put in place what a tap gave for the elements of all parameters."""
        if swapped is held:
            return
        parts = swapped.split([one.numel() for one in self._parameters])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts):  # noqa: B905 - Python 3.9 knows no strict
                if tensor is not None:
                    tensor.copy_(part.view(tensor.shape))

    def batch(self, step: int, parts: Parts, batch: Any) -> Any:
        """Record what a step begins with."""
        if not self._parameters:
            self._parts, self._parameters = parts, [parameter for _name, parameter in parts.parameters()]
            self._beside = Beside(self._parameters[0].device)
            self._count = self._made()  # a training may begin in the state of another one
        self._random(step)
        self._row("batch", lambda: _rows_of(parts.reader, batch))
        self._row("input_ids", lambda: torch.tensor(digest_of(*map(packed, _given(batch)))))
        self._row("random_before", lambda: torch.tensor([digest_of(*states) for states in streams().values()]))
        return batch

    def _random(self, step: int) -> None:
        """The states of torch's generators themselves, which dropout draws from."""
        name = f"random_{step}"
        if self._whole(name, step):
            with self.notes.recording(name):
                states = generators()
                held = torch.cat(states)
                swapped = self.tap(name, held)
                if swapped is not held:
                    put_back(tuple(swapped.split([one.numel() for one in states])))

    def made(self, step: int, name: str, tensor: torch.Tensor) -> None:
        """Record what a phase made."""
        if name == "scores":
            self._scores.append(tensor)
        elif name == "gradient_norm":
            self._row("gradient_norm", lambda: tensor.to(torch.float32))
            self._tensors(step, clipped=self._gradients)

    def phase(self, step: int, name: str) -> None:
        """Record what is there when a phase begins."""
        if name == "clip":
            self._tensors(step, gradients=self._gradients)
        elif name == "scaler" and self._scores:
            held, self._scores = self._scores, []
            self._row("scores", lambda: torch.cat(held))
            scaler, optimizer = self._parts.scaler, self._parts.optimizer
            self._row("scale", lambda: _number(scaler.get_scale() if scaler else 1.0))
            self._row("learning_rate", lambda: _number(optimizer.param_groups[0]["lr"]))

    def end(self, step: int) -> None:
        """Record what the optimizer left."""
        self._row("skipped", self._skipped)
        self._tensors(
            step,
            first_moments=lambda: self._moments("exp_avg"),
            second_moments=lambda: self._moments("exp_avg_sq"),
            weights=lambda: list(self._parameters),
        )
        if max(map(len, self._fresh.values())) >= _STEPS_ON_DEVICE:
            self._to_host()

    def _gradients(self) -> list[torch.Tensor | None]:
        return [parameter.grad for parameter in self._parameters]

    def _moments(self, name: str) -> list[torch.Tensor | None]:
        state = self._parts.optimizer.state
        return [state[parameter].get(name) if parameter in state else None for parameter in self._parameters]

    def _skipped(self) -> torch.Tensor:
        """1 where the optimizer's own count of its steps is what it was."""
        before, self._count = self._count, self._made()
        return (self._count == before.to(self._count.device)).to(torch.int64)

    def _made(self) -> torch.Tensor:
        """The optimizer's own count of its steps; of one that has made none, 0."""
        state = self._parts.optimizer.state
        count = next((state[one]["step"] for one in self._parameters if one in state and "step" in state[one]), None)
        return torch.zeros(()) if count is None else torch.as_tensor(count).detach().clone()

    def _to_host(self) -> None:
        self._beside.join()
        for name, fresh in self._fresh.items():
            if fresh:
                with self.notes.recording(name):
                    self.rows[name].append(torch.stack(fresh).to("cpu"))
                fresh.clear()

    def write(self, steps: int) -> None:
        """Write what was gathered in a number of steps."""
        self._to_host()
        for name, rows in self.rows.items():
            with self.notes.recording(name):
                if sum(map(len, rows)) != steps:
                    self.notes.add(name, f"{sum(map(len, rows))} of {steps} steps came by")
                elif rows:
                    self.tap(name, torch.cat(rows))


def flat(like: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Elements of all tensors one after the other on the host, float32; zeros in the place of None."""
    pairs = zip(like, tensors)  # noqa: B905 - Python 3.9 knows no strict
    parts = (torch.zeros_like(one) if tensor is None else tensor for one, tensor in pairs)
    return torch.cat([part.detach().reshape(-1).to(torch.float32) for part in parts]).to("cpu")


def _number(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


def _given(batch: Any) -> list[torch.Tensor]:
    """All that the reader made of texts, and the scores to be learned."""
    return [
        tensor
        for queries, passages, scores in batch
        for tensor in (*queries, *passages, torch.tensor(scores, dtype=torch.float64))
    ]


def _rows_of(reader: Any, batch: Any) -> torch.Tensor:
    """Rows of queries and passages of the batch that a reader gave last."""
    size = sum(len(queries[0]) for queries, _passages, _scores in batch)
    lines = reader.triples[reader.position - size : reader.position]
    rows = [[query, *(one[0] if isinstance(one, list) else one for one in pids)] for query, *pids in lines]
    return torch.tensor([row[: reader.nway + 1] for row in rows], dtype=torch.int64)
