"""Digests of tensors, 128 bits, taken on their device by integer operations that give the same everywhere.

Copying all gradients and weights of a training step to the host to hash them there would cost far more than this. Each
tensor is hashed on its own device, in 64-bit integer arithmetic that wraps (modulo 2**64); nothing is rounded, and
sums of integers do not depend on their order. With `mix` the bijection of 64-bit integers

    r(x) = x ^ (x >> 32)        (a logical shift)
    mix(x) = r(r(r(x) * M) * M)  with M = 0xD6E8FEB86659FD93

the digest of a tensor is

    w[i][q]      its bytes in row-major order, zeros behind them, as rows of `ROW` little-endian 64-bit words
    x[i][q]      mix(w[i][q] ^ mix(GOLDEN * (q + 1)))
    lanes of row i      the sums over its words of x[i][q], and of x[i][q]**2
    digest       mix(salt + the sum over its rows of mix(lane + GOLDEN * (i + 1))), for each lane

where the salts, one a lane, are made of the dtype's name and the shape. So -0.0 is not 0.0, and each NaN is what its
bits are.

How safe it is: a word's place decides, through its key and its row's number, by which bijections it is spread over all
64 bits. Two tensors that differ in one word differ in the first lane for certain: one term of each sum is another, and
all else is a bijection. For all other differences (swapped elements, signs, any number of words) the lanes are as
sums of random numbers, of which the second is no linear function of what is summed in the first. Least random are two
rows that differ in two words: where the sums of two numbers are equal (2**-64), so are the sums of their squares where
(x' - x[0]) * (x' - x[1]) is a multiple of 2**63, which is so for about 2**-58 of all x'. Two different tensors thus
have one digest with a chance of at most about 2**-122. A table that rests on 10**12 comparisons would be wrong with one
of about 2**-82. It is no cryptographic hash: who wants two tensors with one digest can make them.

How many operations a device is told does not grow with the number of tensors, but only with that of their bytes: they
are laid side by side in rows, and worked on together.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch

ROW = 64
"""Words of a row; part of the formula."""

_TOGETHER = {"cpu": 1 << 15}
_ON_A_GPU = 1 << 24
"""Words that are worked on at once, by device: what a core's cache holds and torch shares out among no threads, and
128 MiB, of which a GPU is told so seldom that the host has time for its training."""

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


def _numbered(count: int) -> torch.Tensor:
    """GOLDEN * (i + 1) for each i below a number."""
    return torch.arange(1, count + 1, dtype=torch.int64).mul_(_signed(_GOLDEN))


_Kind = tuple[torch.dtype, tuple[int, ...]]


@functools.lru_cache(maxsize=4096)
def _salts(kind: _Kind | None) -> tuple[int, int]:
    if kind is None:
        return 0, 0  # which `mix` leaves as they are
    state, (dtype, shape) = 0, kind
    for number in (*str(dtype).encode(), 256, *shape):
        state = _mix((state + number + _GOLDEN) & _MASK)
    return _signed(state), _signed(_mix(state ^ _GOLDEN))


class _Plan:
    """How some tensors are laid side by side as rows, and which rows are worked on together.

    All that the device must be told is made here, once for every set of tensors of the same kinds: to send it anything
    later would be to wait for it.

    Attributes:
        unit: the dtype as which all are copied: their own, where they have one.
        passes: of each, what is copied side by side: a tensor's number and which part of it (None: all), or zeros.
        keys: of the places in a row.
        numbers: of all rows, in their tensors, spread.
        ends: for each lane, where the rows of each tensor begin, and those of the last end, in all rows of both lanes.
        salts: of all tensors, for each lane.
    """

    def __init__(self, kinds: tuple[_Kind | None, ...], device: torch.device) -> None:
        dtypes = {kind[0] for kind in kinds if kind}
        self.unit = dtypes.pop() if len(dtypes) == 1 else torch.uint8
        width = _width(self.unit)
        row, together = (8 * words // width for words in (ROW, _TOGETHER.get(device.type, _ON_A_GPU)))
        zeros = torch.zeros(row, dtype=self.unit, device=device)
        self.passes: list[list[tuple[int, slice | None] | torch.Tensor]] = []
        rows, room = [], 0
        for owner, kind in enumerate(kinds):
            size = math.prod(kind[1]) * _width(kind[0]) // width if kind else 0
            rows.append(-(-size // row))
            start = 0
            while start < size:
                if not room:
                    self.passes.append([])
                    room = together
                stop = min(size, start + room)
                whole = (start, stop) == (0, size)
                self.passes[-1].append((owner, None if whole else slice(start, stop)))
                if missing := (start - stop) % row:
                    self.passes[-1].append(zeros[:missing])
                room -= stop - start + missing
                start = stop
        ends = list(itertools.accumulate(rows, initial=0))
        self.keys = _mix_(_numbered(ROW)).to(device)
        self.numbers = torch.cat([_numbered(count) for count in (*rows, 0)]).to(device)
        self.ends = torch.tensor([ends, [ends[-1] + end for end in ends]]).to(device)
        self.salts = torch.tensor([_salts(kind) for kind in kinds], dtype=torch.int64).view(-1, 2).t().to(device)

    def copies(self, tensors: Sequence[torch.Tensor | None]) -> Iterator[torch.Tensor]:
        """Copy all tensors side by side: int64 of shape (rows, ROW), one pass after the other."""
        flat = [None if one is None else one.reshape(-1) for one in tensors]
        if self.unit == torch.uint8:
            flat = [None if one is None else one.contiguous().view(torch.uint8) for one in flat]
        for pieces in self.passes:
            yield torch.cat([_piece(flat, one) for one in pieces]).view(torch.int64).view(-1, ROW)

    def hashed(self, copies: Iterable[torch.Tensor]) -> torch.Tensor:
        """The digests of what `copies` copied, which does not outlive it."""
        # Both lanes of all rows one after the other, so that one sum that goes on and on has those of all tensors.
        count, device = len(self.numbers), self.numbers.device
        lanes = torch.empty(2, count, dtype=torch.int64, device=device)
        done = 0
        for words in copies:
            done, rows = done + len(words), slice(done, done + len(words))
            _mix_(words.bitwise_xor_(self.keys))
            torch.sum(words, 1, out=lanes[0, rows])
            torch.sum(words.mul_(words), 1, out=lanes[1, rows])
        sums = torch.zeros(lanes.numel() + 1, dtype=torch.int64, device=device)
        torch.cumsum(_mix_(lanes.add_(self.numbers)).view(-1), 0, out=sums[1:])
        at_ends = sums[self.ends]
        return _mix_((at_ends[:, 1:] - at_ends[:, :-1]).add_(self.salts)).t().contiguous()


_plan = functools.lru_cache(maxsize=64)(_Plan)


@functools.lru_cache(maxsize=64)
def _width(dtype: torch.dtype) -> int:
    return torch.empty(0, dtype=dtype).element_size()


class Beside:
    """Takes digests beside what a device does next.

    On a GPU, tensors are copied in the order of what it was told, so before anything changes them; the copies are
    hashed in a stream of their own, while the GPU and the host go on. The copies take as much memory as the tensors.

    Args:
        device: where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @torch.no_grad()
    def digests(self, tensors: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Take the digest of each tensor; the formula is above.

        It only reads, takes no random number, and waits for nothing.

        Args:
            tensors: of any dtypes, shapes and strides.

        Returns:
            int64 of shape (number of tensors, 2) on the device; 0, 0 for None. To be read after `join`.
        """
        plan = _plan(tuple(None if one is None else (one.dtype, one.shape) for one in tensors), self.device)
        copies = plan.copies(tensors)
        if self._stream is None:
            return plan.hashed(copies)
        held = list(copies)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            found = plan.hashed(held)
        for one in held:
            one.record_stream(self._stream)
        return found

    def join(self) -> None:
        """Have what the device is told next come after all digests."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)


def _piece(flat: Sequence[torch.Tensor | None], piece: tuple[int, slice | None] | torch.Tensor) -> torch.Tensor:
    if isinstance(piece, torch.Tensor):
        return piece
    owner, part = piece
    held = flat[owner]
    assert held is not None
    return held if part is None else held[part]
