"""Cells of a table measured by several processes, spread over the GPUs there are."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from itertools import takewhile

import torch

from benchmarks.common.problems import Bench
from benchmarks.common.rows import Row, append_row, is_measured, read_rows
from d4c.comparison.workers.local_workers import LocalWorkers, Task

OpenBench = Callable[[argparse.Namespace, str], Bench]
Measure = Callable[[argparse.Namespace, Bench, Row], Row]


def run_cells(
    args: argparse.Namespace,
    cells: Callable[[argparse.Namespace], list[Row]],
    prepare: Callable[[argparse.Namespace, list[Row]], None],
    open_bench: OpenBench,
    measure: Measure,
) -> None:
    """Measure the cells that `args.out` does not hold yet, for `args.minutes`, with caches beside it.

    Args:
        args: The command line.
        cells: Lists all cells.
        prepare: Makes what the cells share, so that workers only read it.
        open_bench: Opens what a process needs on a device.
        measure: Makes the row of a cell.
    """
    args.deadline = time.monotonic() + 60 * args.minutes
    args.cache = args.out.parent / "cache"
    args.cache.mkdir(parents=True, exist_ok=True)
    # An end from outside, such as a time limit, ends the workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows = read_rows(args.out)
    todo = [cell for cell in cells(args) if not is_measured(cell, rows)]
    set_up_torch()
    prepare(args, todo)
    measure_in_workers(args, todo, open_bench, measure)


def measure_in_workers(args: argparse.Namespace, todo: list[Row], open_bench: OpenBench, measure: Measure) -> None:
    """Measure cells in `args.processes` processes until `args.deadline`, and append each row to `args.out`.

    Args:
        args: The command line; `device`, `out`, `processes` and `deadline` are read here.
        todo: The cells, in the order in which they are begun.
        open_bench: Opens what a process needs on a device.
        measure: Makes the row of a cell.
    """
    in_time = takewhile(lambda _: time.monotonic() <= args.deadline, todo)
    tasks = (Task(str(cell), _measured, (args, open_bench, measure, cell)) for cell in in_time)
    for number, row in LocalWorkers(args.processes, args.device).results(tasks):
        append_row(args.out, row)
        print(todo[number], row["summary"], f"{row['quantize']['seconds']:.1f} s", flush=True)


_benches: dict[str, Bench] = {}
"""What this process has opened, by device."""


def _measured(args: argparse.Namespace, open_bench: OpenBench, measure: Measure, cell: Row, device: str) -> Row:
    set_up_torch()
    if device not in _benches:
        _benches[device] = open_bench(args, device)
    return measure(args, _benches[device], cell)


def set_up_torch() -> None:
    """Full float32 on GPUs too: codes are integers times scales, which ten bits of a TF32 product would blur."""
    torch.backends.cudnn.allow_tf32 = False
