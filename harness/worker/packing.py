"""`packbits` with torch integer operations, so that indexing on a GPU needs no compiler.

colbert-ai builds a CUDA kernel for this at run time, which needs nvcc of torch's own CUDA major version.
"""

from __future__ import annotations

import torch


def packbits(bits: torch.Tensor) -> torch.Tensor:
    """Pack 0/1 values into bytes, most significant bit first, as `numpy.packbits` does.

    Args:
        bits: uint8 of shape (8 * n,), any device; every value 0 or 1.

    Returns:
        uint8 of shape (n,) on the same device.

    Raises:
        ValueError: the number of values is not a multiple of 8. (colbert-ai packs whole rows, and asserts that a row
            is a whole number of bytes; NumPy would pad with zeros.)
    """
    if bits.numel() % 8:
        raise ValueError(f"packbits needs a multiple of 8 values, got {bits.numel()}")
    rows = bits.reshape(-1, 8)
    packed = torch.zeros(rows.shape[0], dtype=torch.uint8, device=bits.device)
    # Shift-and-or in uint8 is exact; a dot product with powers of two would be computed in another dtype on a GPU.
    for position in range(8):
        packed |= rows[:, position] << (7 - position)
    return packed
