"""Tasks on a Ray cluster: one task a cell, GPUs as resources; Ray does again what a lost worker had."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from d4c.comparison.workers.local_workers import Task
from d4c.errors import D4CError, SettingError, reason_of, require

PATIENCE = 10
"""Seconds that a cluster may take to answer."""
RETRIES = 3
"""How often a task is begun again whose worker was lost."""


class RayWorkers:
    """Does tasks on the workers of a cluster, which need d4c and the same paths of models and data.

    Args:
        address: Address of the head node, "auto" for the cluster that this machine is part of, or "local" for one that
            is started here and ends with the process.
        device: "cuda" asks for one GPU a task, anything else for one processor.
        processes: Processors of a cluster that is started here; all by default.

    Raises:
        SettingError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, device: str, processes: int | None = None) -> None:
        self.ray = require("ray", "ray", "A cluster needs")
        self.device = device
        if not self.ray.is_initialized():
            local = {"num_cpus": processes} if address == "local" else {}
            try:
                _knock(address)
                self.ray.init(address, log_to_driver=False, include_dashboard=False, logging_level="error", **local)
            except (OSError, RuntimeError, ValueError) as error:
                raise SettingError(
                    f"There is no Ray cluster at {address!r} ({reason_of(error)}); start one with 'ray start --head'."
                ) from None

    @property
    def several(self) -> bool:
        """See `Workers`."""
        return True

    def results(self, tasks: Iterable[Task | None]) -> Iterator[tuple[int, Any]]:
        """See `Workers`. Tasks are taken from the iterable when the cluster has room for them.

        Raises:
            D4CError: What a task raised, or that it was lost with its worker several times.
        """
        kind = "GPU" if self.device.startswith("cuda") else "CPU"
        remote = self.ray.remote(_call).options(num_cpus=1, num_gpus=int(kind == "GPU"), max_retries=RETRIES)
        waiting, numbers = iter(tasks), count()
        running: dict[Any, int] = {}
        while True:
            # One more for each, which begins at once where another one ends.
            while len(running) < 2 * max(1, int(self.ray.cluster_resources().get(kind, 1))):
                if (task := next(waiting, None)) is None:
                    break
                running[remote.remote(task.function, self.device, *task.arguments)] = next(numbers)
            if not running:
                return
            (done,), _ = self.ray.wait(list(running), num_returns=1)
            try:
                yield running.pop(done), self.ray.get(done)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, D4CError) else error from None
            except self.ray.exceptions.WorkerCrashedError:
                raise D4CError(
                    f"A worker was lost {RETRIES + 1} times at the same task, most often for want of memory; "
                    "give workers more of it."
                ) from None


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at HOST:PORT, which Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), PATIENCE).close()


def _call(function: Callable[..., Any], device: str, *arguments: Any) -> Any:
    return function(*arguments, device)
