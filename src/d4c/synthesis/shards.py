"""Divides a synthesis among the processes of torchrun: each makes whole groups, which do not interact."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from d4c.device import check_device
from d4c.errors import SettingError, reason_of


@contextmanager
def workers(device: str) -> Iterator[tuple[str, bool]]:
    """Join the processes of torchrun, if it started this one.

    Args:
        device: Device of a single process; on GPUs each process of torchrun takes the one of its local rank.

    Yields:
        The device to use, and whether this process writes files.

    Raises:
        SettingError: The environment holds only some of what torchrun sets, or the processes cannot be joined.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield device, True
        return
    _check_environment()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(device)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    except (RuntimeError, ValueError, OSError) as error:
        raise SettingError(
            f"The processes of torchrun cannot be joined ({reason_of(error)}); start all of them with torchrun."
        ) from None
    try:
        yield device, dist.get_rank() == 0
        dist.barrier()  # no process leaves before all files are written
    finally:
        dist.destroy_process_group()


def _check_environment() -> None:
    """Raise SettingError unless the environment holds all that torchrun sets, with numbers that fit together."""
    highest = {"WORLD_SIZE": 1 << 16, "RANK": 1 << 16, "LOCAL_RANK": 1 << 10, "MASTER_PORT": (1 << 16) - 1}
    values = {name: os.environ.get(name, "") for name in (*highest, "MASTER_ADDR")}
    for name, text in values.items():
        if not text or (name in highest and not (text.isascii() and text.isdigit() and int(text[:9]) <= highest[name])):
            named = " and ".join(f"{key}={values[key][:20]!r}" for key in dict.fromkeys(("WORLD_SIZE", name)))
            raise SettingError(
                f"The environment has {named}, expected what torchrun sets; start with torchrun, or unset WORLD_SIZE."
            )
    if int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        raise SettingError(
            f"The environment has RANK={values['RANK']} of WORLD_SIZE={values['WORLD_SIZE']}, expected a smaller rank; "
            "start with torchrun, or unset WORLD_SIZE."
        )


def rank_and_count() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def share(images: int, unit: int) -> slice:
    """Return the rows of this process.

    Args:
        images: Number of images of all processes.
        unit: Number of images that go through the tower together and are not divided.

    Returns:
        Consecutive whole units; no process has more than the first.
    """
    rank, count = rank_and_count()
    units = -(-images // unit)
    return slice(*(min(images, -(-units * r // count) * unit) for r in (rank, rank + 1)))


def join(part: Tensor, rows: slice, images: int) -> Tensor:
    """Join the rows of all processes, bit for bit, on each of them.

    Args:
        part: float32 rows of this process.
        rows: Where they belong.
        images: Number of rows of all processes.

    Returns:
        float32 [images, ...].
    """
    if rank_and_count()[1] == 1:
        return part
    whole = part.new_zeros(images, *part.shape[1:])
    whole[rows] = part
    dist.all_reduce(whole.view(torch.int32))  # as floats, -0.0 + 0.0 would be 0.0
    return whole


def sum_of_processes(value: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if rank_and_count()[1] > 1:
        dist.all_reduce(value)
    return value
