"""Stored trainings that nobody ran: a model of three parameters in NumPy, with faults where a test wants them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.train_job import TRAIN
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import cell, spec

Array = np.ndarray[Any, Any]
Fault = Callable[[int, str, Any], Any]
"""Gets the step, the name of what was computed, and its numbers; returns what is there instead."""

NAMES = ("model.linear.weight", "model.bert.embeddings.weight", "model.bert.encoder.layer.0.weight")
SIZES = (4, 8, 6)
STEPS, BSIZE, NWAY, ACCUMSTEPS = 12, 4, 2, 2
STARTS = np.concatenate([[0], np.cumsum(SIZES)])
SETTINGS: dict[str, Any] = {
    "maxsteps": STEPS, "bsize": BSIZE, "accumsteps": ACCUMSTEPS, "nway": NWAY, "lr": 0.05, "threads": 2,
}  # fmt: skip


def none(_step: int, _name: str, numbers: Array) -> Array:
    """No fault."""
    return numbers


def planted(name: str, step: int, change: Callable[[Any], Any]) -> Fault:
    """A fault in what is called `name`, in one step."""
    return lambda at, of, numbers: change(numbers.copy()) if (at, of) == (step, name) else numbers


def one_ulp(place: int = 0) -> Callable[[Array], Array]:
    """The next number up, in one place."""

    def change(numbers: Array) -> Array:
        numbers.reshape(-1)[place] = np.nextafter(numbers.reshape(-1)[place], np.float32(np.inf))
        return numbers

    return change


def digest(numbers: Array | bytes) -> list[int]:
    """128 bits of some numbers, as two integers."""
    raw = numbers if isinstance(numbers, bytes) else numbers.tobytes()
    return list(struct.unpack("<2q", hashlib.blake2b(raw, digest_size=16).digest()))


def by_parameter(numbers: Array) -> list[list[int]]:
    """The digest of each parameter's part."""
    return [digest(numbers[start:stop]) for start, stop in pairwise(STARTS)]


def train(fault: Fault = none, steps: int = STEPS, lr: float = 0.05) -> dict[str, Array]:
    """Train; returns what the job leaves, by artifact, in the contract's shapes."""
    state = np.random.default_rng(1)
    weights = state.standard_normal(STARTS[-1]).astype(np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    rows: dict[str, list[Any]] = {made.name: [] for made in TRAIN.made if "*" not in made.name}
    scale = np.float64(1)
    for step in range(steps):

        def seen(name: str, numbers: Any, at: int = step) -> Any:
            return fault(at, name, np.asarray(numbers))

        batch = seen("batch", (np.arange(BSIZE * (1 + NWAY)) + 7 * step).reshape(BSIZE, -1) % 50).astype(np.int64)
        random = seen("random_before", state.integers(0, 1 << 30, 4))
        ids = seen("input_ids", batch * 3)
        dropout = np.random.default_rng(random).random((BSIZE, NWAY)) > 0.1
        taken = weights[ids[:, 1:] % len(weights)] * weights[ids[:, :1] % len(weights)]
        scores = seen("scores", (taken * dropout).astype(np.float32))
        losses = seen("loss", np.float32((1 - scores.reshape(ACCUMSTEPS, -1)) ** 2).mean(axis=1, dtype=np.float32))
        scale = seen("scale", scale)
        gradients = (weights * losses.sum() * np.float32(0.1) + np.float32(scores.mean())).astype(np.float32)
        gradients = seen("gradients", gradients)
        norm = seen("gradient_norm", np.float32(np.linalg.norm(gradients)))
        clipped = seen("clipped", gradients * min(np.float32(1), np.float32(2) / (norm + np.float32(1e-6))))
        skipped = seen("skipped", np.int64(not np.isfinite(clipped).all()))
        rate = seen("learning_rate", np.float64(lr))
        if not skipped:
            first = seen("first_moments", np.float32(0.9) * first + np.float32(0.1) * clipped)
            second = seen("second_moments", np.float32(0.99) * second + np.float32(0.01) * clipped**2)
            weights = weights - np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-3))
        weights = seen("weights", weights)
        row = {
            "batch": batch, "input_ids": digest(ids), "random_before": [digest(one.tobytes()) for one in random],
            "scores": scores, "loss": losses, "scale": scale, "gradients": by_parameter(gradients),
            "gradient_norm": norm, "clipped": by_parameter(clipped), "skipped": skipped, "learning_rate": rate,
            "first_moments": by_parameter(first), "second_moments": by_parameter(second),
            "weights": by_parameter(weights),
        }  # fmt: skip
        for name, one in row.items():
            rows[name].append(one)
    dtypes = {"loss": np.float32, "gradient_norm": np.float32, "scores": np.float32}
    found = {name: np.asarray(many, dtypes.get(name)) for name, many in rows.items() if many}
    return found | {"trained": weights}


class Trainings:
    """A store of trainings."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self._runs = root, Store(root / "store"), 0

    def put(
        self,
        version: str = "2.7.1",
        fault: Fault = none,
        *,
        of: CellSpec | None = None,
        repeat: int = 0,
        capture: str = "digests",
        without: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> StoredCell:
        """Train and store; `without` has artifacts that the job could not record, and why."""
        asked = {**SETTINGS, **(settings or {})}
        arrays = train(fault, asked["maxsteps"], asked["lr"])
        kept = {
            name: one
            for name, one in arrays.items()
            if name not in (without or {}) and (capture != "final" or TRAIN.is_final(name))
        }
        self._runs += 1
        folder = self.root / f"run{self._runs}"
        folder.mkdir()
        for name, one in kept.items():
            write_safetensors(folder / f"{name}.safetensors", {"tensor": Tensor.of(one)})
        artifacts = self.store.ingest(TRAIN, (), folder, capture)
        own = of or spec(version, job="train", repeat=repeat, settings=asked)
        parameters = [
            {"name": name, "shape": [size], "offset": int(start)}
            for name, size, start in zip(NAMES, SIZES, STARTS, strict=False)
        ]
        details = {"parameters": parameters, "not_captured": dict(without or {})}
        made: Cell = cell(own, artifacts=artifacts, capture=capture, details=details)
        return StoredCell(self.store, self.store.put(made))
