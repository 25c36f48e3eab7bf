"""Ranks on a CPU, which colbert-ai cannot have: a process group over gloo; runs inside the environment under test."""

import os

import torch


def plant(fault, distributed):
    """Plant one fault; `distributed` is colbert-ai's module `utils.distributed`."""
    if fault == "ranks over gloo":

        def init(_rank):
            torch.distributed.init_process_group("gloo", init_method="env://")
            return int(os.environ["WORLD_SIZE"]), True

        distributed.init = init
        # colbert-ai's own asks for the rank's number modulo that of the GPUs.
        distributed.barrier = lambda _rank: torch.distributed.barrier()
    elif fault == "a rank that dies":
        plant("ranks over gloo", distributed)
        started = distributed.init

        def dying(rank):
            found = started(rank)
            if rank == 1:
                os._exit(41)
            return found

        distributed.init = dying
    else:
        raise ValueError(f"no fault is named {fault!r}")
