"""The CUDA libraries in this process: every copy, what it says of itself, its package, and who uses it.

There may be several of one name. From torch 2.11.0 on torch has a cuBLAS of CUDA 13, while faiss brings the one of
CUDA 12 along; and what is loaded need not be what is installed (LD_LIBRARY_PATH, a preloaded copy of the host's).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"(?P<name>lib(?:cublas|cublasLt|cudart|cudnn|cuda|nccl))(?:-[0-9a-f]+)?\.so[.\d]*$")
"""A library's name; wheels that carry a copy of their own put a digest behind it."""

_FUNCTIONS = {
    "libcublas": "cublasGetProperty",
    "libcublasLt": "cublasLtGetVersion",
    "libcudart": "cudaRuntimeGetVersion",
    "libcudnn": "cudnnGetVersion",
    "libcuda": "cuDriverGetVersion",
    "libnccl": "ncclGetVersion",
}
"""A function that every version of a library has."""

_USERS = {"torch": "/torch/lib/libtorch_cuda.so", "faiss": "/faiss/_swigfaiss"}
"""Who calls them, and how the path of its own library goes on after the site folder."""


@dataclass(frozen=True)
class _Mapped:
    """A file in this process's memory.

    Attributes:
        path: where it was loaded from.
        ranges: the addresses that it takes.
    """

    path: str
    ranges: list[tuple[int, int]]

    def holds(self, address: int) -> bool:
        """Whether an address is in it."""
        return any(start <= address < end for start, end in self.ranges)


def loaded() -> list[dict[str, Any]]:
    """Each loaded copy of a CUDA library, by name and path.

    `library` is its name, `file` the end of its path, `version` what it says of itself (None where it is not asked),
    `package` the `NAME VERSION` of the installed package that its file belongs to (empty if none), and `used_by` who of
    torch and faiss finds its functions there, as the dynamic loader looks them up. NVIDIA's functions carry the name of
    their library's version (`libcublas.so.12`), so that a copy for another CUDA cannot be called in place of its own.
    """
    files = _mapped()
    copies = [(match["name"], one) for one in files if (match := _NAME.match(os.path.basename(one.path)))]
    users = {user: one.path for user, part in _USERS.items() for one in files if part in one.path and ".so" in one.path}
    return [
        {
            "library": name,
            "file": os.path.join(*copy.path.split(os.sep)[-5:]),
            "version": _version(name, copy.path),
            "package": _owner(copy.path),
            "used_by": [user for user, path in users.items() if copy.holds(_address(path, _FUNCTIONS[name]))],
        }
        for name, copy in sorted(copies, key=lambda found: (found[0], found[1].path))
    ]


def _mapped() -> list[_Mapped]:
    ranges: dict[str, list[tuple[int, int]]] = {}
    with open("/proc/self/maps", encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith("/"):
                start, end = (int(one, 16) for one in fields[0].split("-"))
                ranges.setdefault(fields[5], []).append((start, end))
    return [_Mapped(path, found) for path, found in ranges.items()]


def _address(path: str, function: str) -> int:
    """Where a loaded library finds a function, in itself or in what it was linked with; 0 where it finds none."""
    try:
        found = getattr(ctypes.CDLL(path), function)
    except (AttributeError, OSError):
        return 0
    return ctypes.cast(found, ctypes.c_void_p).value or 0


def _version(name: str, path: str) -> str | None:
    """What a loaded library says of itself.

    Of cuDNN and NCCL nothing is asked: cuDNN ends the process where a part of it is missing.
    """
    if name == "libcublas":
        parts = [_number(path, "cublasGetProperty", which) for which in range(3)]
        return None if None in parts else ".".join(map(str, parts))
    if name == "libcublasLt":
        function = ctypes.CDLL(path).cublasLtGetVersion
        function.restype = ctypes.c_size_t
        return str(function())
    if name in ("libcudart", "libcuda"):
        number = _number(path, _FUNCTIONS[name])
        return None if number is None else str(number)
    return None


def _number(path: str, function: str, *arguments: int) -> int | None:
    """The number that a function writes to where its last argument points; None where it fails."""
    number = ctypes.c_int()
    failed = getattr(ctypes.CDLL(path), function)(*arguments, ctypes.byref(number))
    return None if failed else number.value


def _owner(path: str) -> str:
    """`NAME VERSION` of the installed package whose list of files has this one; empty if none has.

    Looked for where the file is, and not on Python's path: it may be another environment's.
    """
    for site in Path(path).parents:
        for distribution in importlib.metadata.distributions(path=[str(site)]):
            if f"\n{Path(path).relative_to(site)}," in f"\n{distribution.read_text('RECORD') or ''}":
                return f"{re.sub(r'[-_.]+', '-', distribution.metadata['Name']).lower()} {distribution.version}"
    return ""
