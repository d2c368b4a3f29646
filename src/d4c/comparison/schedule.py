"""The order in which calibration images are made and cells are measured, and what becomes of the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4c.calibration.images import KIND as CALIBRATION
from d4c.calibration.images import CalibrationSet
from d4c.comparison.config import Cell, Source, cells
from d4c.comparison.store import Store
from d4c.comparison.workers.local_workers import Task, Workers
from d4c.comparison.workers.tasks import Images, make_images, measure_cell
from d4c.progress import Progress
from d4c.storage.manifest import stage_folder

KEPT = 1 << 30
"""Bytes of calibration sets that are kept in memory to be sent to workers."""
WRITERS = 8
"""Threads that write calibration sets, whose pictures take longer to encode than to make."""


@dataclass(frozen=True)
class Item:
    """Something to do: make the images of a source, or measure a cell, of which the file is the identity."""

    store: Store
    file: Path
    order: int
    source: Source
    cell: Cell | None = None

    @property
    def images(self) -> Path | None:
        """The folder of images that must be there first."""
        return None if self.cell is None or self.cell.is_float else self.store.images(self.source)


def work(stores: Sequence[Store], workers: Workers, progress: Progress, deadline: float) -> None:
    """Do what is missing in the stores of some grids, and begin nothing after the deadline of `time.monotonic`."""
    schedule = Schedule(_missing(stores, ahead=workers.several), deadline)
    total = len(schedule.waiting)
    progress(0, total)
    with schedule.writers:
        for number, result in workers.results(schedule.tasks()):
            schedule.keep(schedule.begun[number], result)
            progress(total - schedule.left, total)
    for written in schedule.written.values():
        written.result()


def _missing(stores: Sequence[Store], ahead: bool) -> list[Item]:
    """What is to be done, in order: float models first, then each seed's images and cells.

    With several workers a seed's images come before the cells of the seed before it (`ahead`), so that few of them wait
    for images.
    """
    items: dict[Path, Item] = {}
    seeds = list(dict.fromkeys(seed for store in stores for seed in store.config.seeds))
    for store in stores:
        for cell in cells(store.config):
            if store.is_done(cell):
                continue
            rank, source = seeds.index(cell.seed) if not cell.is_float else 0, cell.source
            if not cell.is_float and not store.has_images(source):
                items.setdefault(store.images(source), Item(store, store.images(source), 2 * rank, source))
            order = -1 if cell.is_float else 2 * rank + (3 if ahead else 1)
            items.setdefault(store.file(cell), Item(store, store.file(cell), order, source, cell))
    return sorted(items.values(), key=lambda item: item.order)


class Schedule:
    """Gives tasks whose images are there, and keeps their results."""

    def __init__(self, waiting: list[Item], deadline: float) -> None:
        self.waiting, self.deadline = waiting, deadline
        self.begun: list[Item] = []
        self.running = 0
        self.unmade = {item.file for item in waiting if item.cell is None}
        self.loaded: dict[Path, Images] = {}
        self.writers = ThreadPoolExecutor(WRITERS)
        self.written: dict[Path, Future[None]] = {}

    @property
    def left(self) -> int:
        """How many items are not done."""
        return len(self.waiting) + self.running

    def tasks(self) -> Iterator[Task | None]:
        """See `Workers.results`."""
        while self.waiting and time.monotonic() <= self.deadline:
            item = next((item for item in self.waiting if item.images not in self.unmade), None)
            if item is None:
                yield None
                continue
            self.waiting.remove(item)
            self.begun.append(item)
            self.running += 1
            yield self._task(item)

    def keep(self, item: Item, result: Any) -> None:
        """Write what a task returned."""
        self.running -= 1
        if item.cell is not None:
            item.store.keep(item.cell, result)
            return
        self.unmade.remove(item.file)
        if result.unfit is None:
            self.written[item.file] = self.writers.submit(_write, item, result)
            self._remember(item.file, result)
            return
        for other in [other for other in self.waiting if other.images == item.file]:
            assert other.cell is not None
            other.store.keep(other.cell, {"unfit": result.unfit})
            self.waiting.remove(other)

    def _task(self, item: Item) -> Task:
        if item.cell is None:
            return Task(f"images of {item.source.method}", make_images, (item.store.config, item.source))
        images = None if item.images is None else self._load(item.images)
        return Task(str(item.cell), measure_cell, (item.store.config, item.cell, images))

    def _load(self, folder: Path) -> Images:
        if folder not in self.loaded:
            if folder in self.written:
                self.written[folder].result()
            self._remember(folder, Images.of(CalibrationSet.load(folder)))
        return self.loaded[folder]

    def _remember(self, folder: Path, images: Images) -> None:
        """Keep a set, and forget the oldest others where that is too much."""
        self.loaded[folder] = images
        while len(self.loaded) > 1 and sum(each.bytes for each in self.loaded.values()) > KEPT:
            self.loaded.pop(next(iter(self.loaded)))


def _write(item: Item, images: Images) -> None:
    with stage_folder(item.file, CALIBRATION, item.store.source_key(item.source)) as new:
        images.unpacked().write(new)
