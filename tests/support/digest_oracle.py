"""The digest that a worker takes of tensors on their device, and the same formula in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tests.support.real_environments import ROOT
from tests.support.torch_oracle import TorchOracle

ROW = 64
_GOLDEN, _ALL = 0x9E3779B97F4A7C15, (1 << 64) - 1

_PROGRAM = r"""
import json, sys
sys.path.insert(0, ROOT)
import torch
from harness.worker.device_digest import Beside
from torch.utils._python_dispatch import TorchDispatchMode
VIEWS = {"view", "slice", "select", "detach", "t"}
class Count(TorchDispatchMode):
    found = 0
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found += str(function).split(".")[1] not in VIEWS
        return function(*args, **(kwargs or {}))
print(json.dumps(torch.__version__), flush=True)
beside = Beside(torch.device("cpu"))
def tensor(case):
    if case is None:
        return None
    dtype = getattr(torch, case["dtype"])
    raw = bytes.fromhex(case["raw"])
    plain = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype) if raw else torch.empty(0, dtype=dtype)
    plain = plain.reshape(case["shape"])
    if case["lies"] == "transposed":
        return plain.t().contiguous().t()
    if case["lies"] == "every second":
        return torch.stack((plain, plain), -1)[..., 0]
    if case["lies"] == "behind another":
        return torch.cat((plain[:1], plain))[1:]
    return plain
for line in sys.stdin:
    case = json.loads(line)
    if isinstance(case, list) and case[:1] == ["operations"]:
        tensors = [torch.ones(case[2]) for _ in range(case[1])]
        beside.digests(tensors)
        with Count() as count:
            beside.digests(tensors)
        print(count.found, flush=True)
        continue
    if isinstance(case, int):
        tensors = [torch.arange(case, dtype=torch.int32)]
    else:
        tensors = [tensor(one) for one in case]
    before = torch.get_rng_state()
    found = beside.digests(tensors).tolist()
    assert torch.equal(before, torch.get_rng_state())
    print(json.dumps(found), flush=True)
"""


@dataclass(frozen=True)
class Bits:
    """A tensor: its bytes in row-major order, and how it lies in memory."""

    dtype: str
    shape: tuple[int, ...]
    raw: bytes
    lies: str = ""


class DigestOracle(TorchOracle):
    """Says what the worker's function gives."""

    program = _PROGRAM.replace("ROOT", repr(str(ROOT)))

    def of(self, tensors: Sequence[Bits | None]) -> list[list[int]]:
        """The digests of some tensors that are given together."""
        found = self._ask([one and {**vars(one), "shape": list(one.shape), "raw": one.raw.hex()} for one in tensors])
        return cast("list[list[int]]", found)

    def of_count(self, count: int) -> list[int]:
        """The digest of the int32 numbers from 0 to below `count`."""
        return cast("list[int]", self._ask(count)[0])

    def operations(self, tensors: int, elements: int) -> int:
        """How many operations, views aside, the digests of some float32 tensors of one size take the second time."""
        return cast("int", self._ask(["operations", tensors, elements]))


def _mix(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shift, multiplier = np.uint64(32), np.uint64(0xD6E8FEB86659FD93)
    for _round in range(2):
        words = (words ^ (words >> shift)) * multiplier
    return cast("np.ndarray[Any, Any]", words ^ (words >> shift))


def _mixed(number: int) -> int:
    return int(_mix(np.array([number & _ALL], dtype=np.uint64))[0])


def expected(tensor: Bits | None) -> list[int]:
    """The formula, as the docstring of `harness.worker.device_digest` has it."""
    if tensor is None:
        return [0, 0]
    salt = 0
    for number in (*f"torch.{tensor.dtype}".encode(), 256, *tensor.shape):
        salt = _mixed(salt + number + _GOLDEN)
    words = np.frombuffer(tensor.raw + bytes(-len(tensor.raw) % (8 * ROW)), dtype="<u8").reshape(-1, ROW)
    places, rows = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) for count in words.shape[::-1])
    spread = _mix(words ^ _mix(places))
    found = []
    for lane, start in ((spread, salt), (spread * spread, _mixed(salt ^ _GOLDEN))):
        total = _mix(lane.sum(axis=1, dtype=np.uint64) + rows).sum(dtype=np.uint64)
        found.append(int(np.uint64(_mixed(start + int(total))).astype(np.int64)))
    return found
