"""Compiled one-pass kernels for big tensors; `harness.tensors.passes` has the same passes in plain NumPy.

Everything here works on blocks that stay in the first-level cache: load a block of both sides once, then run short
loops that LLVM turns into vector code, one per metric; `vectors` has the loops that it does not find by itself. Sums
restart with every chunk, and chunks do not depend on the number of threads, so a result is the same on every run.
Compiled code is kept in the user's cache folder, which is chosen here, before any of the rooms imports numba.

bfloat16 comes in as int16 and float16 as uint16, so that a kernel can tell them apart by type.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take plain arrays and fill others: numba compiles no dataclasses.

from __future__ import annotations

import os
from pathlib import Path


def _cache_folder() -> Path | None:
    """Where compiled code is kept: the user's own cache folder, never a shared one, because loading it runs it."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = Path(base) / "colbert-torch-harness" / "numba"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


FOLDER = _cache_folder()
if FOLDER is not None:
    os.environ.setdefault("NUMBA_CACHE_DIR", str(FOLDER))
