"""Cells of a table measured by several processes, spread over the GPUs there are."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common.problems import Bench
from benchmarks.common.rows import Row, append_row, is_measured, read_rows

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
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".claims.") as claims:
        if args.processes == 1:
            _work(args, todo, open_bench, measure, Path(claims), 0)
            return
        context = torch.multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_work, args=(args, todo, open_bench, measure, Path(claims), index), daemon=True)
            for index in range(args.processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise SystemExit(f"{len(failed)} of {args.processes} workers failed; what they have measured is kept.")


def _work(
    args: argparse.Namespace, todo: list[Row], open_bench: OpenBench, measure: Measure, claims: Path, worker: int
) -> None:
    """Measure every cell that no other worker has claimed; a claim is a folder, which only one can make."""
    set_up_torch()
    device = args.device
    if device == "cuda":
        device = f"cuda:{worker % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    bench = open_bench(args, device)
    for i, cell in enumerate(todo):
        if time.monotonic() > args.deadline:
            return
        try:
            os.mkdir(claims / str(i))
        except FileExistsError:
            continue
        row = measure(args, bench, cell)
        append_row(args.out, row)
        print(cell, row["summary"], f"{row['quantize']['seconds']:.1f} s", flush=True)


def set_up_torch() -> None:
    """Full float32 on GPUs too: codes are integers times scales, which ten bits of a TF32 product would blur."""
    torch.backends.cudnn.allow_tf32 = False
