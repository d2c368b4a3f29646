"""Tasks in processes of this machine; a process that is lost is replaced, and its task is done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Protocol

from d4c.errors import D4CError

ATTEMPTS = 3
"""How often a task is begun before it counts as what kills its processes."""


@dataclass(frozen=True)
class Task:
    """Work that any process can do.

    Args:
        name: What an error calls it.
        function: A function of a module.
        arguments: Its arguments; the name of a device follows them.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers(Protocol):
    """Whatever does tasks."""

    @property
    def several(self) -> bool:
        """Whether tasks are done side by side."""
        ...

    def results(self, tasks: Iterable[Task | None]) -> Iterator[tuple[int, Any]]:
        """Yield number and result of each task as it is done, in any order.

        None among the tasks says that the next one needs a result that is still to come.
        """
        ...


class LocalWorkers:
    """Does tasks in this process, or in several.

    Args:
        processes: How many; with one no process is started.
        device: Where they compute. With "cuda" the processes share the GPUs out.
    """

    def __init__(self, processes: int, device: str) -> None:
        self.processes, self.device = processes, device

    @property
    def several(self) -> bool:
        """See `Workers`."""
        return self.processes > 1

    def results(self, tasks: Iterable[Task | None]) -> Iterator[tuple[int, Any]]:
        """See `Workers`. Tasks are taken from the iterable when there is a process for them.

        Raises:
            D4CError: A task was lost with its process several times.
        """
        if self.processes == 1:
            for number, task in enumerate(task for task in tasks if task is not None):
                yield number, task.function(*task.arguments, self.device)
            return
        waiting, numbers = iter(tasks), count()
        again: list[tuple[int, Task]] = []
        begun: dict[int, int] = {}
        running: dict[Future[Any], tuple[int, Task]] = {}
        others = set(multiprocessing.active_children())
        pool = self._pool()
        try:
            while True:
                while len(running) < self.processes:
                    if not again:
                        if (following := next(waiting, None)) is None:
                            break
                        again.append((next(numbers), following))
                    number, task = again.pop()
                    begun[number] = begun.get(number, 0) + 1
                    running[pool.submit(_call, task)] = number, task
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                lost = [future for future in done if isinstance(future.exception(), BrokenProcessPool)]
                for future in done.difference(lost):
                    number, _task = running.pop(future)
                    yield number, future.result()
                if lost:
                    # The pool is broken as a whole: whatever was running is begun again in a new one.
                    again += running.values()
                    running.clear()
                    _refuse_deadly(again, begun)
                    pool.shutdown(wait=False, cancel_futures=True)
                    pool = self._pool()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()

    def _pool(self) -> ProcessPoolExecutor:
        # A process that has used a GPU or threads must not be forked.
        context = multiprocessing.get_context("spawn")
        counter = context.Value("i", 0)
        return ProcessPoolExecutor(self.processes, context, _set_up, (self.device, self.processes, counter))


def _refuse_deadly(tasks: Iterable[tuple[int, Task]], begun: dict[int, int]) -> None:
    for number, task in tasks:
        if begun[number] >= ATTEMPTS:
            raise D4CError(
                f"A process was lost {ATTEMPTS} times while it worked on {task.name}, most often for want of "
                "memory; use fewer workers or a smaller model."
            )


_device = "cpu"
"""Where this process computes."""


def _set_up(device: str, processes: int, counter: Synchronized[int]) -> None:
    """Give a new process its share of the machine, and let it end with its parent."""
    global _device
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with counter.get_lock():
        index = counter.value
        counter.value += 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // processes)))
    _device = f"cuda:{index % torch.cuda.device_count()}" if device == "cuda" else device
    if device == "cuda":
        torch.cuda.set_device(_device)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        with suppress(OSError):
            parent.join()
        os._exit(1)


def _call(task: Task) -> Any:
    return task.function(*task.arguments, _device)
