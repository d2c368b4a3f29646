"""Cells of a table measured by several processes, spread over the GPUs there are."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch

from benchmarks.common.problems import Bench, Places
from benchmarks.common.rows import Row, append_row, is_measured, read_rows
from d4c.comparison.workers.local_workers import ATTEMPTS, LocalWorkers, Task

Measure = Callable[[argparse.Namespace, Bench, Row], Row]


def run_cells(args: argparse.Namespace, cells: Callable[[argparse.Namespace], list[Row]], measure: Measure) -> None:
    """Measure the cells that `args.out` does not hold yet, for `args.minutes`, with caches beside it.

    What cells share, the first process that needs it makes, while others wait for it. A cell that fails is named and
    left out, so that the others are measured; a second call tries it again.

    Args:
        args: The command line, of `benchmarks.common.arguments.add_grid`.
        cells: Lists all cells, in the order in which they are begun.
        measure: Makes the row of a cell.
    """
    deadline = time.monotonic() + 60 * args.minutes
    args.cache = args.out.parent / "cache"
    args.cache.mkdir(parents=True, exist_ok=True)
    # An end from outside, such as a time limit, ends the workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = read_rows(args.out)
    todo = [cell for cell in cells(args) if not is_measured(cell, rows)]
    in_time = takewhile(lambda _: time.monotonic() <= deadline, todo)
    tasks = (Task(str(cell), _measured, (args, measure, cell)) for cell in in_time)
    for _number, row in PatientWorkers(args.processes, args.device).results(tasks):
        append_row(args.out, row)
        print(f"          {row['summary']}, quantized in {row['quantize']['seconds']:.1f} s", flush=True)


@dataclass(frozen=True)
class Failure:
    """What a task ended with that raised an error."""

    text: str


class PatientWorkers(LocalWorkers):
    """Leaves out tasks that fail, so that hours of others are not lost, and says what is done."""

    def results(self, tasks: Iterable[Task | None]) -> Iterator[tuple[int, Any]]:
        names: list[str] = []
        started = time.monotonic()

        def guarded() -> Iterator[Task | None]:
            for task in tasks:
                if task is None:
                    yield None
                    continue
                names.append(task.name)
                yield replace(task, function=attempt, arguments=(task.function, task.arguments))

        for number, result in super().results(guarded()):
            print(f"{time.monotonic() - started:6.1f} s  {names[number]}", flush=True)
            if isinstance(result, Failure):
                print(result.text, flush=True)
            else:
                yield number, result


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...], device: str) -> Any:
    """Do a task, again where others had left no memory of a GPU; what it raises is its result."""
    for _ in range(ATTEMPTS):
        try:
            return function(*arguments, device)
        except torch.OutOfMemoryError:
            failure = Failure(traceback.format_exc())
        except Exception:
            return Failure(traceback.format_exc())
        finally:
            if device.startswith("cuda"):
                torch.cuda.empty_cache()  # what one process keeps, others on its GPU lack
    return failure


_benches: dict[str, Bench] = {}
"""What this process has opened, by device."""


def _measured(args: argparse.Namespace, measure: Measure, cell: Row, device: str) -> Row:
    set_up_torch()
    if device not in _benches:
        places = Places(args.models, args.data, args.cache, args.rows, device, args.batch)
        _benches[device] = Bench(places, args.cache / "calibration", args.preset, args.real)
    return measure(args, _benches[device], cell)


def set_up_torch() -> None:
    """Full float32 on GPUs too: codes are integers times scales, which ten bits of a TF32 product would blur."""
    torch.backends.cudnn.allow_tf32 = False
