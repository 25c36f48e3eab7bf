"""What may watch colbert-ai's training loop from inside, and what it sees there; `train_drive` runs the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


class Stop(Exception):  # noqa: N818 - no error: a watcher has seen what it wanted
    """Ends the training before the step that has begun."""


@dataclass
class Parts:
    """What colbert-ai's loop works with, each as soon as it has made it.

    Attributes:
        reader: its `LazyBatcher`.
        model: its `ColBERT`, without what is wrapped around it.
        optimizer: its `AdamW`.
        scheduler: of the learning rate; None where it has none.
        amp: its `MixedPrecisionManager`.
    """

    reader: Any = None
    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    amp: Any = None

    @property
    def scaler(self) -> Any:
        """The `GradScaler`; None where losses are not scaled."""
        return getattr(self.amp, "scaler", None)

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Names, as in the checkpoint's file, and parameters, in the model's order."""
        found: Iterator[tuple[str, torch.nn.Parameter]] = self.model.model.named_parameters()
        return found


class Watcher:
    """Sees one training step after another; it must change nothing, and take no random number.

    Steps count from 0, as colbert-ai's own do.
    """

    def batch(self, step: int, parts: Parts, batch: Any) -> Any:  # noqa: ARG002 - for those who want it
        """A step begins, with all of `parts` made.

        Args:
            step: its number.
            parts: what the loop works with.
            batch: what the reader gave: ((ids, mask) of queries, (ids, mask) of passages, scores) of each micro-batch.

        Returns:
            What the loop gets.

        Raises:
            Stop: the training ends here.
        """
        return batch

    def phase(self, step: int, name: str) -> None:
        """A phase begins.

        For each micro-batch `forward`, `loss` and `backward`; then once `scaler` (gradients are unscaled, if they were
        scaled), `clip`, `optimizer` (not where the scaler skips it) and, where there is a scaler, `scaler` again.
        """

    def made(self, step: int, name: str, tensor: torch.Tensor) -> None:
        """`scores` (queries, nway) and `loss` of a micro-batch, or the `gradient_norm` that clipping found."""

    def end(self, step: int) -> None:
        """A step is over: weights and moments are new, and gradients are gone."""
