"""A real torch in a process of its own, asked what `torch.allclose` or `torch.load` say.

The tests' own interpreter has no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UnreadableTensor
from harness.tensors.tensor import Tensor
from harness.tensors.torchfile import read_pt

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


_LOADER = r"""
import hashlib, json, sys, warnings
warnings.filterwarnings("ignore")
import torch
print(json.dumps(torch.__version__), flush=True)
def tree(node):
    if isinstance(node, torch.UntypedStorage):
        node = torch.empty(0, dtype=torch.uint8).set_(node)
    elif isinstance(node, torch.TypedStorage):
        node = torch.empty(0, dtype=node.dtype).set_(node._untyped_storage)
    if isinstance(node, torch.Tensor) and node.numel() > 1_000_000:
        return ["tensor", str(node.dtype)[6:], list(node.shape), "many"]
    if isinstance(node, torch.Tensor):
        node = node.detach().resolve_conj().resolve_neg().contiguous()
        raw = bytes(node.reshape(-1).view(torch.uint8).tolist()) if node.numel() else b""
        return ["tensor", str(node.dtype)[6:], list(node.shape), hashlib.sha256(raw).hexdigest()]
    if isinstance(node, dict):
        return ["dict", [[tree(key), tree(value)] for key, value in node.items()]]
    if isinstance(node, (list, tuple)):
        return ["list", [tree(one) for one in node]]
    return ["other", str(node)]
for line in sys.stdin:
    said = []
    for careful in (True, False):
        try:
            said.append(tree(torch.load(json.loads(line), map_location="cpu", weights_only=careful)))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    print(json.dumps(said), flush=True)
"""


def tree_of(node: object) -> list[Any]:
    """What `LoadOracle.load` answers, of what the harness's own reader gave."""
    if isinstance(node, Tensor) and node.n > 1_000_000:
        return ["tensor", node.dtype, list(node.shape), "many"]
    if isinstance(node, Tensor):
        return ["tensor", node.dtype, list(node.shape), hashlib.sha256(bytes(node.buffer())).hexdigest()]
    if isinstance(node, dict):
        return ["dict", [[tree_of(key), tree_of(value)] for key, value in node.items()]]
    if isinstance(node, (list, tuple)):
        return ["list", [tree_of(one) for one in node]]
    return ["other", str(node)]


def torch_python() -> Path | None:
    """An interpreter with torch: `HARNESS_TORCH_PYTHON`, else the newest environment the harness has built."""
    if os.environ.get("HARNESS_TORCH_PYTHON"):
        return Path(os.environ["HARNESS_TORCH_PYTHON"])
    root = Path(os.environ.get("HARNESS_HOME") or Path(__file__).parents[2] / ".harness") / "envs"
    built = sorted(root.glob("2.8.0*/bin/python")) or sorted(root.glob("2.*/bin/python"))
    return built[-1] if built else None


class TorchOracle:
    """Answers questions until closed."""

    program = _PROGRAM

    def __init__(self, python: Path) -> None:
        self.process = subprocess.Popen(
            [str(python), "-c", self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the torch process ended"
        return line

    def allclose(self, a: Tensor, b: Tensor, rules: Sequence[tuple[float, float]]) -> list[bool]:
        """`torch.allclose` under each (atol, rtol); `torch.equal` for integers, as the experiment reports them."""
        case = {"dtype": a.dtype, "shape": list(a.shape), "rules": [list(rule) for rule in rules]}
        case |= {"a": bytes(a.buffer()).hex(), "b": bytes(b.buffer()).hex()}
        answer = self._ask(case)
        assert isinstance(answer, list)
        return answer

    def _ask(self, question: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


class LoadOracle(TorchOracle):
    """Says what `torch.load` gives; it is started anew when a file kills it."""

    program = _LOADER

    def __init__(self, python: Path) -> None:
        self.python = python
        super().__init__(python)

    def load(self, path: Path) -> tuple[Any, Any]:
        """A tree with the digests of its tensors, or why not: with `weights_only`, and without."""
        try:
            careful, free = self._ask(str(path))
        except (AssertionError, BrokenPipeError):
            self.process.kill()
            self.process.wait()
            super().__init__(self.python)
            return "it died", "it died"
        return careful, free

    def holds(self, path: Path) -> tuple[bool, bool]:
        """Whether torch loads a file, and whether the harness reads it; what both give must be the same, bit for bit.

        Never does the harness read what torch refuses: with `weights_only`, as it is by default, or at least without it
        (pickle's later protocols).
        """
        careful, free = self.load(path)
        said = careful if isinstance(careful, list) else free
        try:
            found = tree_of(read_pt(path))
        except UnreadableTensor:
            return isinstance(said, list), False
        assert found == said, (careful, free)
        return True, True
