"""What colbert-ai wraps around the model that it trains: torch's DistributedDataParallel, or a stand-in for one rank.

colbert-ai 0.2.22 trains one rank, too, in DistributedDataParallel, which it tells that the model is on a GPU. On a CPU
that is an error, so there a stand-in takes its place. With one rank there is nobody to average gradients with, and it
gives the same bits; a test holds the two against each other, and so does the request `ddp` on any device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

Wrap = Callable[..., torch.nn.Module]


class OneRank(torch.nn.Module):
    """The module, called `module` as DistributedDataParallel calls it; what else that is told does not matter to one.

    Args:
        module: the model.
    """

    def __init__(self, module: torch.nn.Module, **_options: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives."""
        return self.module(*args, **kwargs)


def on_no_network() -> None:
    """Have the ranks of a process group meet on this machine: a group opens sockets, even one of a single rank."""
    for library in ("NCCL", "GLOO"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")


@contextlib.contextmanager
def wrapping(kind: str, folder: str, *, gpu: bool) -> Iterator[Wrap]:
    """Yield what is to be called in the place of DistributedDataParallel.

    Args:
        kind: `torch` for torch's own, over a process group of this process alone; `ranks` for torch's own in a group
            that is there, or will be; `stand-in` for `OneRank`.
        folder: an existing folder, for the file in which ranks would find each other.
        gpu: whether the model is on a GPU, and the group NCCL's; else it is gloo's.
    """
    if kind == "stand-in":
        yield OneRank
        return
    parallel = torch.nn.parallel.DistributedDataParallel

    def wrap(module: torch.nn.Module, device_ids: Any, output_device: Any, **options: Any) -> torch.nn.Module:
        where = {"device_ids": device_ids, "output_device": output_device} if gpu else {}
        return parallel(module, **where, **options)

    if kind == "ranks":
        yield wrap
        return
    on_no_network()
    # On a port that the system chooses.
    store = torch.distributed.FileStore(os.path.join(folder, "ranks"), 1)
    torch.distributed.init_process_group("nccl" if gpu else "gloo", store=store, rank=0, world_size=1)
    try:
        yield wrap
    finally:
        torch.distributed.destroy_process_group()
