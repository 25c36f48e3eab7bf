"""How kernels are compiled and kept, and what the processor must be able to do for them."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding  # type: ignore[import-untyped]
from numba import config, njit
from numpy import typing as npt

from harness.home import user_cache

_LINE = 64  # bytes of a cache line
_OTHERS = 3  # folders of other sources that are left: two checkouts used in turn must not compile each time


def cache_folder(base: Path, sources: Path) -> Path:
    """The folder below `base` for what is compiled from these sources; a new one puts an end to the oldest others.

    numba looks at the date of the file that a kernel is written in, and not at those that the file imports; so the
    folder is named after what is in all of them.

    Raises:
        OSError: it cannot be made.
    """
    digest = hashlib.sha256()
    for path in sorted(sources.glob("*.py")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    folder = base / digest.hexdigest()[:16]
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        others = [(other.stat().st_mtime, other) for other in base.iterdir() if other.is_dir() and other != folder]
        for _, other in sorted(others, reverse=True)[_OTHERS:]:
            shutil.rmtree(other, ignore_errors=True)
    os.utime(folder)  # used last
    return folder


def _own_folder() -> Path | None:
    """Where compiled code is kept: in the user's own cache folder, because loading it runs it."""
    base = user_cache()
    if base is None:
        return None
    try:
        folder = cache_folder(base / "numba", Path(__file__).parent)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


if not config.CACHE_DIR and (_folder := _own_folder()) is not None:
    # Both: numba reads the variable again when the environment has changed.
    os.environ["NUMBA_CACHE_DIR"] = config.CACHE_DIR = str(_folder)
CACHE = bool(config.CACHE_DIR)

FEATURES = dict(binding.get_host_cpu_features())
"""What the processor can do, by LLVM's names."""

CONVERTS_HALF = platform.machine() not in ("x86_64", "AMD64") or bool(FEATURES.get("f16c"))
"""Whether the processor converts float16; on one that does not, LLVM calls a function that is missing, and aborts."""

# Counting references to arrays, which numba does at each slice and call, would cost as much as a block. Functions
# marked so can make no arrays; their callers own all that they are given.
bare = njit(nogil=True, cache=CACHE, _nrt=False)

BLOCK = 1024
"""Elements per block: a block of both sides and all the buffers fit the first-level cache."""


def aligned(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A new array, in cache lines of its own: a vector that straddles two takes twice as long."""
    kind = np.dtype(dtype)
    raw = np.empty(size * kind.itemsize + _LINE, np.uint8)
    begin = -raw.__array_interface__["data"][0] % _LINE
    return raw[begin : begin + size * kind.itemsize].view(kind)


# Sums may be reordered into vector lanes: fixed by the compiled code, so still the same on every run.
SUM = {"reassoc", "nsz", "contract"}
