"""Digests of tensors, 128 bits, taken on their device by integer operations that give the same everywhere.

Copying all gradients and weights of a training step to the host to hash them there would cost far more than this. Each
tensor is hashed on its own device, in 64-bit integer arithmetic that wraps (modulo 2**64); nothing is rounded, and
sums of integers do not depend on their order. With `mix` the bijection of 64-bit integers

    r(x) = x ^ (x >> 32)        (a logical shift)
    mix(x) = r(r(r(x) * M) * M)  with M = 0xD6E8FEB86659FD93

the digest of a tensor is

    w[j]           its bytes in row-major order, zeros behind them, as little-endian 64-bit words
    key[q]         mix(GOLDEN * (q + 1)), for each place q in a block of `BLOCK` words
    x[j]           mix(w[j] ^ key[j % BLOCK])
    lanes of block b    the sums over its words of x[j], and of mix(x[j])
    digest         mix(salt + the sum over its blocks of mix(lane + GOLDEN * (b + 1))), for each lane

where the salts, one a lane, are made of the dtype's name and the shape. So -0.0 is not 0.0, and each NaN is what its
bits are.

How safe it is: a word's place decides, through its key, by which bijection it is spread over all 64 bits. Two tensors
that differ in one word differ in both lanes for certain: one term of the sum is another, and all else is a bijection.
For all other differences (swapped elements, signs, any number of words) the sums are as those of random numbers, and
what is summed in the second lane is no linear function of what is summed in the first: two different tensors have one
digest with a chance of about 2**-128. A table that rests on 10**12 comparisons would be wrong with one of about
2**-88. It is no cryptographic hash: who wants two tensors with one digest can make them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

BLOCK = 1 << 22
"""Words of a block; part of the formula."""

_TOGETHER = {"cpu": 1 << 15, "cuda": BLOCK}
"""Words that are worked on at once, by device: what a core's cache holds and torch shares out among no threads, and
what fits into a large GPU's cache (32 MiB, three times that at its most)."""

_MASK = (1 << 64) - 1
_MULTIPLIER = 0xD6E8FEB86659FD93
_GOLDEN = 0x9E3779B97F4A7C15


def _signed(number: int) -> int:
    """A number modulo 2**64 as int64 has it."""
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number


def _mix(number: int) -> int:
    """`mix` of one number."""
    for _round in range(2):
        number = ((number ^ (number >> 32)) * _MULTIPLIER) & _MASK
    return number ^ (number >> 32)


def _mix_(words: torch.Tensor) -> torch.Tensor:
    """`mix` of each element of a contiguous int64 tensor, in its place."""
    # The low half of each word becomes low ^ high: a logical shift in one pass, where `>>` is an arithmetic one.
    halves = words.view(torch.int32).view(-1, 2)
    low, high = halves[:, 0], halves[:, 1]
    for _round in range(2):
        low.bitwise_xor_(high)
        words.mul_(_signed(_MULTIPLIER))
    low.bitwise_xor_(high)
    return words


@functools.lru_cache(maxsize=2)
def _keys(device: torch.device) -> torch.Tensor:
    return _mix_(torch.arange(1, BLOCK + 1, dtype=torch.int64, device=device).mul_(_signed(_GOLDEN)))


_Kind = tuple[torch.dtype, tuple[int, ...]]


@functools.lru_cache(maxsize=4096)
def _salts(kind: _Kind | None) -> tuple[int, int]:
    if kind is None:
        return 0, 0  # which `mix` leaves as they are
    state, (dtype, shape) = 0, kind
    for number in (*str(dtype).encode(), 256, *shape):
        state = _mix((state + number + _GOLDEN) & _MASK)
    return _signed(state), _signed(_mix(state ^ _GOLDEN))


def _words(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A tensor's bytes as int64 of one dimension, with zeros behind them where they are no whole words."""
    if tensor is None:
        return None
    flat = tensor.detach().contiguous().reshape(-1)
    missing = -flat.numel() * flat.element_size() % 8
    if missing or flat.storage_offset() * flat.element_size() % 8:
        padding = torch.zeros(missing, dtype=torch.uint8, device=flat.device)
        flat = torch.cat((flat.view(torch.uint8), padding))
    return flat.view(torch.int64)


class _Plan:
    """How some tensors are cut into pieces, and which pieces are worked on together.

    A piece is a part of a block of one tensor; small ones share a pass. All that the device must be told is made here,
    once for every set of tensors of the same kinds: to send it anything later would be to wait for it.
    """

    def __init__(self, kinds: tuple[_Kind | None, ...], sizes: tuple[int, ...], device: torch.device) -> None:
        together = _TOGETHER.get(device.type, BLOCK)
        self.passes: list[list[tuple[int, int, int, int]]] = []
        """Of each pass its pieces: the tensor's number, the first word in it, how many, the place in the pass."""
        blocks: dict[tuple[int, int], int] = {}
        of_piece, filled = [], together + 1
        for owner, size in enumerate(sizes):
            for start in range(0, size, together):
                length = min(together, size - start)
                if filled + length > together:
                    self.passes.append([])
                    filled = 0
                self.passes[-1].append((owner, start, length, filled))
                filled += length
                of_piece.append(blocks.setdefault((owner, start // BLOCK), len(blocks)))

        def on_device(numbers: Sequence[object], *shape: int) -> torch.Tensor:
            return torch.tensor(numbers, dtype=torch.int64).view(-1, *shape).to(device)

        self.together, self.blocks = together, len(blocks)
        self.block_of_piece = on_device(of_piece)
        self.owner_of_block = on_device([owner for owner, _number in blocks])
        self.numbers = on_device([_signed(_GOLDEN * (number + 1)) for _owner, number in blocks], 1)
        self.ends = [on_device([piece[3] + piece[2] - 1 for piece in pieces]) for pieces in self.passes]
        self.salts = on_device([_salts(kind) for kind in kinds], 2)


_plan = functools.lru_cache(maxsize=64)(_Plan)


def _sums(words: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The sums of the pieces that end at these places."""
    totals = words.cumsum(0)[ends]
    totals[1:] -= totals[:-1].clone()
    return totals


@torch.no_grad()
def digests(tensors: Sequence[torch.Tensor | None], device: torch.device) -> torch.Tensor:
    """Take the digest of each tensor; the formula is above.

    It only reads, takes no random number, and waits for nothing: on a GPU the result is there when the GPU is done.

    Args:
        tensors: of any dtypes, shapes and strides.
        device: where they are.

    Returns:
        int64 of shape (number of tensors, 2) on that device; 0, 0 for None.
    """
    words = [_words(tensor) for tensor in tensors]
    kinds = tuple(None if tensor is None else (tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
    plan = _plan(kinds, tuple(0 if held is None else len(held) for held in words), device)
    keys = _keys(device)
    buffer = torch.empty(plan.together, dtype=torch.int64, device=device)
    sums = [torch.empty(0, 2, dtype=torch.int64, device=device)]
    for pieces, ends in zip(plan.passes, plan.ends):  # noqa: B905 - Python 3.9 knows no strict
        used = 0
        for owner, start, length, place in pieces:
            held, key, used = words[owner], start % BLOCK, place + length
            assert held is not None
            torch.bitwise_xor(held[start : start + length], keys[key : key + length], out=buffer[place:used])
        first = _sums(_mix_(buffer[:used]), ends)
        sums.append(torch.stack((first, _sums(_mix_(buffer[:used]), ends)), 1))
    blocks = torch.zeros(plan.blocks, 2, dtype=torch.int64, device=device)
    blocks.index_add_(0, plan.block_of_piece, torch.cat(sums)).add_(plan.numbers)
    return _mix_(plan.salts.clone().index_add_(0, plan.owner_of_block, _mix_(blocks)))
