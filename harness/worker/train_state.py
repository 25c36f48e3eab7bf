"""The state in which a training step begins, as files: written by one version, and put into another's training.

`tensors.safetensors` has `weights/NAME`, `first/NAME` and `second/NAME` (AdamW's moments) of each parameter, the states
of torch's generators `random/0` (CPU) and `random/1` (GPU), and the token ids and masks of the batch, micro-batch by
micro-batch, `batch/M/query_ids`, `query_mask`, `doc_ids`, `doc_mask`. `state.json` has what is no tensor.
"""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.worker import randomness
from harness.worker.train_watch import Parts, Stop, Watcher

Batch = list[Any]
"""What colbert-ai's reader gives for a step: for each micro-batch (query ids, mask), (passages' ids, mask), scores."""
_MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
_TEXTS = ("query", "doc")


def save(folder: str, step: int, parts: Parts, batch: Batch) -> None:
    """Write the state before a step.

    Args:
        folder: made if it does not exist.
        step: its number, from 0.
        parts: of the training.
        batch: of the step.
    """
    os.makedirs(folder, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    counts: dict[str, float] = {}
    for name, parameter in parts.parameters():
        tensors[f"weights/{name}"] = parameter
        known = parts.optimizer.state.get(parameter, {})
        for moment, key in _MOMENTS.items():
            if key in known:
                tensors[f"{moment}/{name}"] = known[key]
        if "step" in known:
            counts[name] = float(known["step"])
    for number, state in enumerate(randomness.generators()):
        tensors[f"random/{number}"] = state
    for number, (query, doc, _scores) in enumerate(batch):
        for text, (ids, mask) in zip(_TEXTS, (query, doc)):  # noqa: B905 - Python 3.9 knows no strict
            tensors[f"batch/{number}/{text}_ids"], tensors[f"batch/{number}/{text}_mask"] = ids, mask
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, os.path.join(folder, "tensors.safetensors"))
    said = {
        "step": step,
        "counts": counts,
        "learning_rates": [float(group["lr"]) for group in parts.optimizer.param_groups],
        "scheduler": _plain(parts.scheduler),
        "scaler": _plain(parts.scaler),
        "scores": [list(scores) for _query, _doc, scores in batch],
        **randomness.of_python(),
    }
    with open(os.path.join(folder, "state.json"), "w", encoding="utf-8") as file:
        json.dump(said, file)


def _plain(part: Any) -> dict[str, Any] | None:
    """What of a scheduler's or a scaler's state is numbers; the rest is code, which each version has of its own."""
    if part is None:
        return None
    numbers = (bool, int, float)
    return {
        name: value
        for name, value in part.state_dict().items()
        if isinstance(value, numbers) or (isinstance(value, list) and all(isinstance(one, numbers) for one in value))
    }


def load(folder: str, parts: Parts) -> Batch:
    """Put a state in place; returns the batch of its step.

    Raises:
        KeyError: the model has a parameter that the state lacks.
    """
    tensors = load_file(os.path.join(folder, "tensors.safetensors"))
    with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
        said = json.load(file)
    optimizer = parts.optimizer
    with torch.no_grad():
        for name, parameter in parts.parameters():
            parameter.copy_(tensors[f"weights/{name}"])
    _load_moments(parts, tensors, said["counts"])
    for group, rate in zip(optimizer.param_groups, said["learning_rates"]):  # noqa: B905 - Python 3.9 knows no strict
        group["lr"] = rate
    for part, known in ((parts.scheduler, said["scheduler"]), (parts.scaler, said["scaler"])):
        if part is not None and known:
            part.load_state_dict({**part.state_dict(), **known})
    batch = _batch(tensors, said["scores"])
    randomness.put_back(tuple(tensors[f"random/{number}"] for number in range(len(_numbered(tensors, "random/")))))
    randomness.put_back_python(said)
    return batch


def _load_moments(parts: Parts, tensors: dict[str, torch.Tensor], counts: dict[str, float]) -> None:
    """Through the optimizer's own `load_state_dict`, which knows where a version keeps its step counts."""
    held = parts.optimizer.state_dict()
    names = {id(parameter): name for name, parameter in parts.parameters()}
    order = [names[id(parameter)] for group in parts.optimizer.param_groups for parameter in group["params"]]
    held["state"] = {
        number: {
            "step": torch.tensor(counts[name]),
            **{key: tensors[f"{moment}/{name}"] for moment, key in _MOMENTS.items()},
        }
        for number, name in enumerate(order)
        if name in counts
    }
    parts.optimizer.load_state_dict(held)


def _batch(tensors: dict[str, torch.Tensor], scores: list[list[float]]) -> Batch:
    def text(number: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[f"batch/{number}/{kind}_ids"], tensors[f"batch/{number}/{kind}_mask"]

    return [(*(text(number, kind) for kind in _TEXTS), found) for number, found in enumerate(scores)]


def _numbered(tensors: dict[str, torch.Tensor], prefix: str) -> list[str]:
    return [name for name in tensors if name.startswith(prefix)]


class Saved(Watcher):
    """Ends training before a step, and leaves the state in which that would begin.

    Args:
        step: from 0.
        folder: for the state; see `save`.
    """

    def __init__(self, step: int, folder: str) -> None:
        self._step, self._folder = step, folder

    def batch(self, step: int, parts: Parts, batch: Batch) -> Batch:
        """See `Watcher`."""
        if step == self._step:
            save(self._folder, step, parts, batch)
            raise Stop
        return batch
