"""What a probe works with: seeded inputs, the model, precisions and devices, and where results go."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from harness.worker.outcomes import Ended
from harness.worker.setting import Setting

FULL, MIXED = "full", "mixed"


def random(seed: str) -> np.random.Generator:
    """NumPy's generator, seeded by a text: the same numbers in every environment, whatever its torch."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")))


def bell(seed: str, *shape: int) -> Any:
    """Float32 numbers, about normal, variance 1/3: sums of four uniform numbers.

    Only additions, so that they are the same on every machine; a normal draw asks the machine's own `log` and `exp`.
    """
    generator = random(seed)
    total = np.zeros(shape, np.float32)
    for _ in range(4):
        total += generator.random(shape, dtype=np.float32)
    return total - np.float32(2)


class Bench:
    """Where one probe runs and leaves its results.

    Args:
        name: the probe's.
        setting: device and, for the probes that ask for it, the checkpoint.
        folder: gets a safetensors file for each tensor and, last, `done.json`.
    """

    def __init__(self, name: str, setting: Setting, folder: str) -> None:
        self.name, self.setting, self.folder = name, setting, folder
        self._made: dict[str, list[dict[str, Any]]] = {"tensors": [], "facts": [], "refused": []}
        self._started = time.perf_counter()
        os.makedirs(folder, exist_ok=True)

    @property
    def device(self) -> str:
        """The job's device, where the model runs."""
        return "cuda" if self.setting.gpu else "cpu"

    @property
    def devices(self) -> list[str]:
        """Devices for what needs no model: the CPU always, the GPU where the job has one."""
        return ["cpu", "cuda"] if self.setting.gpu else ["cpu"]

    @property
    def length(self) -> int:
        """Tokens in a passage: as many as the articles' batches had on a GPU, fewer where every token costs."""
        return 71 if self.setting.gpu else 16

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """A float32 tensor of seeded numbers on the CPU; the same for the same name and shape."""
        return torch.from_numpy(bell(f"{self.name} {name}", *shape))

    def integers(self, name: str, low: int, high: int, *shape: int) -> torch.Tensor:
        """An int64 tensor of seeded numbers from `low` to `high - 1`."""
        return torch.from_numpy(random(f"{self.name} {name}").integers(low, high, shape, dtype=np.int64))

    def model(self) -> Any:
        """The checkpoint's model: `LM` (BERT) and `linear`."""
        return self.setting.model().model

    def linears(self) -> dict[str, torch.nn.Linear]:
        """Every Linear of the model by path."""
        return {path: m for path, m in self.model().named_modules() if isinstance(m, torch.nn.Linear)}

    def tokens(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask of `batch` passages; the first n of a batch are the batch of n."""
        vocabulary = int(self.model().config.vocab_size)
        ids = torch.stack([self.integers(f"passage {i}", 0, vocabulary, self.length) for i in range(batch)])
        return ids.to(self.device), torch.ones_like(ids).to(self.device)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """What colbert-ai's `doc` computes, step by step, without its punctuation mask."""
        encoded = self.model().LM(ids, attention_mask=mask)[0]
        projected = self.model().linear(encoded)
        normal = torch.nn.functional.normalize(projected, p=2, dim=2)
        return {"bert": encoded, "linear": projected, "embeddings": normal}

    def precisions(self) -> dict[str, Callable[[], Any]]:
        """Name to a context: full, and autocast to float16 on a GPU or to bfloat16 on a CPU, which has no other."""
        dtype = torch.float16 if self.setting.gpu else torch.bfloat16
        return {FULL: contextlib.nullcontext, MIXED: lambda: torch.autocast(self.device, dtype=dtype)}

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[Case]:
        """One case of the probe; what a version refuses to do ends the case and not the probe."""
        try:
            yield Case(self, name)
        except Ended:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self._made["refused"].append({"case": name, "reason": f"{type(error).__name__}: {lines[0]}"[:500]})

    def _keep(self, case: str, name: str, tensor: torch.Tensor, role: str) -> str:
        tensors = self._made["tensors"]
        file = f"{len(tensors):05}.safetensors"
        save_file({"tensor": tensor.detach().to("cpu").contiguous().clone()}, os.path.join(self.folder, file))
        tensors.append({"case": case, "tensor": name, "file": file, "role": role})
        return file

    def finish(self, outcome: str = "ok", reason: str = "") -> dict[str, Any]:
        """Write `done.json`; returns how the probe ended."""
        refused = self._made["refused"]
        if outcome == "ok" and refused and not self._made["tensors"]:
            outcome, reason = "crashed", f"Every case was refused; the first: {refused[0]['reason']}"
        seconds = round(time.perf_counter() - self._started, 3)
        done = {"outcome": outcome, "reason": reason, **self._made, "seconds": seconds}
        path = os.path.join(self.folder, "done.json")
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(done, file, indent=1)
        os.replace(f"{path}.new", path)
        return {"outcome": outcome, "reason": reason}


class Case:
    """Takes the results of one case."""

    def __init__(self, bench: Bench, name: str) -> None:
        self._bench, self.name = bench, name

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor that is compared between versions."""
        self._bench._keep(self.name, name, tensor, "result")

    def fact(
        self, name: str, holds: bool, note: str = "", pair: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        """Say something that is true or false within this version.

        Args:
            name: what ought to hold, such as `batch_invariant`.
            holds: whether it does.
            note: where it does not.
            pair: two tensors that would be equal if it held; measured where it does not.
        """
        files = None
        if pair is not None and not holds:
            files = [self._bench._keep(self.name, f"{name}: {side}", t, "pair") for side, t in zip("ab", pair)]  # noqa: B905 - Python 3.9 knows no strict
        self._bench._made["facts"].append(
            {"case": self.name, "fact": name, "holds": holds, "note": note, "pair": files}
        )


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits; NaN equals itself here, and +0 is not -0."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    kind = widths[a.element_size()]
    return bool(torch.equal(a.contiguous().view(kind), b.contiguous().view(kind)))
