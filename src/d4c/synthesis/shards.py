"""One synthesis spread over the processes that torchrun started: each has whole groups, which never meet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def workers(device: str) -> Iterator[tuple[str, bool]]:
    """Join the processes of torchrun, if it started this one: the device to use, and whether this process writes.

    Without torchrun that is the device given, and yes. On GPUs each process takes the one of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device, True
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device, dist.get_rank() == 0
        dist.barrier()  # nobody leaves before what is written lies there
    finally:
        dist.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """Rank and number of the processes that work together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def share(images: int, unit: int) -> slice:
    """The rows of this process: consecutive units of `unit` images that go through the tower together.

    No process has more than the first.
    """
    rank, count = rank_and_count()
    units = -(-images // unit)
    return slice(*(min(images, -(-units * r // count) * unit) for r in (rank, rank + 1)))


def join(part: Tensor, rows: slice, images: int) -> Tensor:
    """The rows of all processes as one float32 tensor of `images` rows, on each of them, bit for bit."""
    if rank_and_count()[1] == 1:
        return part
    whole = part.new_zeros(images, *part.shape[1:])
    whole[rows] = part
    dist.all_reduce(whole.view(torch.int32))  # as floats, -0.0 + 0.0 would be 0.0
    return whole


def sum_of_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if rank_and_count()[1] > 1:
        dist.all_reduce(value)
    return value
