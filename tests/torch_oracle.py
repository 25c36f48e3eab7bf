"""A real torch in a process of its own, asked what `torch.allclose` says; the tests' own interpreter has no torch."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.tensors import Tensor

_PROGRAM = r"""
import json, sys, warnings
warnings.filterwarnings("ignore")
import torch
print(json.dumps(torch.__version__), flush=True)
for line in sys.stdin:
    case = json.loads(line)
    dtype = getattr(torch, case["dtype"])
    def tensor(text):
        raw = bytes.fromhex(text)
        if not raw:
            return torch.empty(case["shape"], dtype=dtype)
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(case["shape"])
    a, b = tensor(case["a"]), tensor(case["b"])
    if dtype.is_floating_point or dtype.is_complex:
        answer = [torch.allclose(a, b, rtol=rtol, atol=atol) for atol, rtol in case["rules"]]
    else:
        answer = [torch.equal(a, b) for _ in case["rules"]]
    print(json.dumps(answer), flush=True)
"""


def torch_python() -> Path | None:
    """An interpreter with torch: `HARNESS_TORCH_PYTHON`, else the newest environment the harness has built."""
    if os.environ.get("HARNESS_TORCH_PYTHON"):
        return Path(os.environ["HARNESS_TORCH_PYTHON"])
    root = Path(os.environ.get("HARNESS_HOME") or Path(__file__).parent.parent / ".harness") / "envs"
    built = sorted(root.glob("2.8.0*/bin/python")) or sorted(root.glob("2.*/bin/python"))
    return built[-1] if built else None


class TorchOracle:
    """Answers questions until closed."""

    def __init__(self, python: Path) -> None:
        self.process = subprocess.Popen(
            [str(python), "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the torch process ended"
        return line

    def allclose(self, a: Tensor, b: Tensor, rules: Sequence[tuple[float, float]]) -> list[bool]:
        """`torch.allclose` under each (atol, rtol); `torch.equal` for integers, as the experiment reports them."""
        assert self.process.stdin is not None
        case = {"dtype": a.dtype, "shape": list(a.shape), "rules": [list(rule) for rule in rules]}
        case |= {"a": bytes(a.buffer()).hex(), "b": bytes(b.buffer()).hex()}
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        assert isinstance(answer, list)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
