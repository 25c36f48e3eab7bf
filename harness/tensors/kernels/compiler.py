"""How kernels are compiled and kept, and what the processor must be able to do for them."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.

from __future__ import annotations

import platform

from llvmlite import binding  # type: ignore[import-untyped]
from numba import config, njit

from harness.tensors.kernels import FOLDER

if not config.CACHE_DIR and FOLDER is not None:  # numba was imported by somebody else before this module
    config.CACHE_DIR = str(FOLDER)
CACHE = bool(config.CACHE_DIR)

CONVERTS_HALF = platform.machine() not in ("x86_64", "AMD64") or bool(binding.get_host_cpu_features().get("f16c"))
"""Whether the processor converts float16; on one that does not, LLVM calls a function that is missing, and aborts."""

# Counting references to arrays, which numba does at each slice and call, would cost as much as a block. Functions
# marked so can make no arrays; their callers own all that they are given.
bare = njit(nogil=True, cache=CACHE, _nrt=False)

BLOCK = 1024
"""Elements per block: a block of both sides and all the buffers fit the first-level cache."""

# Sums may be reordered into vector lanes: fixed by the compiled code, so still the same on every run.
SUM = {"reassoc", "nsz", "contract"}
