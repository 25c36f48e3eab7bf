"""Digests, 128 bits, of the few bytes of a training step that are on the host: token ids, states of random numbers.

There BLAKE2b takes less time than torch takes to be told of a tensor; for what is large or on a GPU see
`device_digest`.
"""

from __future__ import annotations

import hashlib
import struct

import torch


def packed(tensor: torch.Tensor) -> bytes:
    """A tensor's dtype, shape and elements."""
    plain = tensor.detach().to("cpu").contiguous()
    return f"{plain.dtype} {tuple(plain.shape)} ".encode() + plain.numpy().tobytes()


def digest_of(*parts: bytes) -> list[int]:
    """The digest of some bytes, in their order, as two int64; 0, 0 for none."""
    if not parts:
        return [0, 0]
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(struct.pack("<q", len(part)))
        found.update(part)
    return list(struct.unpack("<2q", found.digest()))
