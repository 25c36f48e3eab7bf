"""The states of the random-number generators of this process, as tensors: to keep, to put back, to compare."""

from __future__ import annotations

import random
import struct
from typing import Any, cast

import numpy as np
import torch

from harness.worker.host_digest import packed


def generators() -> tuple[torch.Tensor, ...]:
    """States of torch's generators: the CPU's, and the GPU's where there is one in use."""
    found = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append(torch.cuda.get_rng_state())
    return tuple(found)


def streams() -> dict[str, tuple[bytes, ...]]:
    """The states of all generators, by name, to be told apart: nothing for the GPU's where there is none."""
    _version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = cast("tuple[str, Any, int, int, float]", np.random.get_state())
    of_torch, *of_cuda = map(packed, generators())
    return {
        "python": (struct.pack(f"<{len(words)}Q", *words), *(() if gauss is None else (struct.pack("<d", gauss),))),
        "numpy": (kind.encode(), keys.astype("<u4").tobytes(), struct.pack("<2qd", place, has_gauss, cached)),
        "torch": (of_torch,),
        "cuda": tuple(of_cuda),
    }


def put_back(states: tuple[torch.Tensor, ...]) -> None:
    """Make torch's generators draw what they drew after `generators` gave these states."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def same(before: tuple[torch.Tensor, ...], after: tuple[torch.Tensor, ...]) -> bool:
    """Whether nothing was drawn between two times."""
    return len(before) == len(after) and all(map(torch.equal, before, after))


def of_python() -> dict[str, Any]:
    """States of Python's and NumPy's generators, as JSON."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(key) for key in keys], position, has_gauss, cached],
    }


def put_back_python(states: dict[str, Any]) -> None:
    """The opposite of `of_python`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
