"""Tensors read from files without torch: torch's `.pt` archives and safetensors; and their digests.

Input is untrusted: nothing in a file is executed, every size is checked against the file before it is used, and
whatever cannot be read becomes an `UnreadableTensor` that says which file and why. Numbers stay in the file, mapped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from harness.errors import UnreadableTensor
from harness.tensors.dtypes import BY_NUMPY, DTYPES, Array, count_nan
from harness.tensors.mapped import HASH_SLICE, slices
from harness.tensors.threads import is_forked

if sys.byteorder != "little":  # pragma: no cover - no such host has a torch wheel
    raise ImportError("harness.tensors.tensor maps little-endian files and works on little-endian hosts only")


class Check(Protocol):
    """Holds a tensor's file against the checksum in it."""

    def take(self, part: Array) -> None:
        """Take bytes of the tensor that were just looked at, if that spares reading them again."""

    def __call__(self) -> None:
        """Take the rest; `UnreadableTensor` where they are not what was saved."""


@dataclass(frozen=True)
class Tensor:
    """An immutable tensor: torch's dtype name, shape, and elements.

    `data` has shape `shape`, is C-contiguous, and is read-only and memory-mapped where it comes from a file. Its NumPy
    dtype is `DTYPES[dtype].storage`: **bfloat16 is held as its uint16 bits**, float8 formats as uint8 bits and
    complex32 as uint32 bits, because NumPy has no such numbers. `check` is `verify`'s, None where there is no checksum.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Array = field(repr=False, compare=False)
    check: Check | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UnreadableTensor(f"{self.dtype!r} is not a dtype this harness knows; it knows {', '.join(DTYPES)}.")
        if self.data.dtype != np.dtype(DTYPES[self.dtype].storage) or self.data.shape != self.shape:
            raise ValueError(f"{self.dtype} {self.shape} cannot be held in {self.data.dtype} {self.data.shape}")

    @classmethod
    def of(cls, array: Array, dtype: str | None = None) -> Tensor:
        """Wrap an array; `dtype` names torch's dtype where the array holds bits (bfloat16 in uint16)."""
        array = np.asarray(array)
        # ascontiguousarray makes a scalar one-dimensional, so put the shape back.
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        if dtype is None:
            if contiguous.dtype not in BY_NUMPY:
                raise UnreadableTensor(f"NumPy's {contiguous.dtype} has no torch dtype.")
            dtype = BY_NUMPY[contiguous.dtype].name
        return cls(dtype, contiguous.shape, contiguous)

    @property
    def n(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return self.n * DTYPES[self.dtype].itemsize

    @property
    def flat(self) -> Array:
        """The elements as a one-dimensional view, in C order."""
        return self.data.reshape(-1)

    def buffer(self) -> memoryview:
        """The elements as little-endian bytes, without a copy."""
        return self.flat.view(np.uint8).data

    def verify(self) -> None:
        """Hold the elements against the checksum that their file has of them, if it has one.

        Reading does not, because equal tensors need no proof: ask where one differs from another.

        Raises:
            UnreadableTensor: they are not what was saved; the sentence names file and member.
        """
        if self.check is not None:
            self.check()

    def digest(self) -> str:
        """Hex blake3 of dtype, shape and bytes: equal exactly when all three are.

        The header is `harness.tensor.v1`, the dtype's name, and the shape's decimal numbers joined by commas, each
        ended by a zero byte; the elements follow, little-endian, in C order.
        """
        return self._read_through(lambda _: None)

    def digest_and_nans(self, size: int = HASH_SLICE) -> tuple[str, int]:
        """The digest, and how many elements are NaN, from one reading: bit-equal NaNs are not close in torch.

        `size` is how many bytes are read at a time; they must hold whole elements.
        """
        found: list[int] = []
        digest = self._read_through(lambda raw: found.append(count_nan(raw, self.dtype)), size)
        return digest, sum(found)

    def _read_through(self, look: Callable[[Array], None], size: int = HASH_SLICE) -> str:
        """Hash the tensor, and show each slice's bytes, which hold whole elements, to `look`."""
        from blake3 import blake3

        shape = ",".join(map(str, self.shape))
        threads = 1 if is_forked() else blake3.AUTO
        hasher = blake3(f"harness.tensor.v1\0{self.dtype}\0{shape}\0".encode(), max_threads=threads)
        raw = self.flat.view(np.uint8)
        for part in slices(raw, size):
            hasher.update(part.data)
            look(part)
        return hasher.hexdigest()
