"""Do with copies of tensors, on the host, what a job need not wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_AHEAD = 4
"""Sendings that may wait for the thread: it catches up in the end, and what waits is memory."""


class Behind:
    """Hands tensors to a function in the order in which they came, behind the back of a job on a GPU.

    To read a tensor of a GPU is to wait for all that the GPU was told, and to hash it on the host takes longer still,
    while the GPU has nothing to do. So the GPU is told to copy it, in the order of what else it was told and so before
    anything changes it, and a thread waits for the copy. A job on a CPU has no time to give away: there tensors are
    handed over at once, by the job itself.

    Args:
        take: is given a name and a tensor on the host, in one thread at a time.
        gpu: whether the job runs on one; of its tensors some may be on the host.
    """

    def __init__(self, take: Callable[[str, torch.Tensor], None], *, gpu: bool) -> None:
        self._take = take
        self._thread = ThreadPoolExecutor(1) if gpu else None
        self._copies: list[tuple[str, torch.Tensor]] = []
        self._sent: deque[Future[None]] = deque()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Hand over a tensor, which may change as soon as this returns; of a job on a GPU, at the next `send`."""
        if self._thread is None:
            self._take(name, tensor.to("cpu"))
        else:
            # A GPU writes it by itself, into memory that torch keeps and gives out again.
            self._copies.append((name, tensor.to("cpu", non_blocking=True, copy=True)))

    def send(self) -> None:
        """Have the thread take what was added.

        Raises:
            Exception: what it met with something sent before.
        """
        if self._thread is None:
            return
        copied = torch.cuda.Event(blocking=True)
        copied.record()
        self._sent.append(self._thread.submit(self._take_all, copied, self._copies))
        self._copies = []
        self._wait(_AHEAD)

    def _take_all(self, copied: torch.cuda.Event, copies: list[tuple[str, torch.Tensor]]) -> None:
        copied.synchronize()
        for name, tensor in copies:
            self._take(name, tensor)

    def _wait(self, left: int) -> None:
        while len(self._sent) > left:
            self._sent.popleft().result()

    def join(self) -> None:
        """Wait until all that was sent is taken; then nothing more can be sent.

        Raises:
            Exception: as `send`.
        """
        self._wait(0)
        if self._thread is not None:
            self._thread.shutdown()
