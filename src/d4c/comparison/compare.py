"""`compare`: every cell of a grid as a file that appears whole, and the tables of all cells."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d4c.comparison.config import ComparisonConfig, cells, comparison_config
from d4c.comparison.schedule import work
from d4c.comparison.store import CELLS, IMAGES, Results, Store, stores_of
from d4c.comparison.workers.local_workers import LocalWorkers, Workers
from d4c.device import resolve_device
from d4c.errors import ArtifactError, SettingError
from d4c.progress import Progress, silent
from d4c.reading.json_file import read_json
from d4c.storage.files import write_json
from d4c.storage.locks import LOCK, locked
from d4c.storage.outputs import is_empty

CONFIG = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """A grid: its settings, and what each cell ended with that is measured, in the order of the grid."""

    config: ComparisonConfig
    results: Results

    @property
    def missing(self) -> int:
        """How many cells are still to be measured."""
        return len(cells(self.config)) - len(self.results)

    @property
    def unfit(self) -> dict[str, str]:
        """Why a method cannot serve a model, by both names."""
        refused = [(cell, result) for cell, result in self.results.items() if "unfit" in result]
        return {f"{cell.method} on {cell.model}": result["unfit"] for cell, result in refused}


def compare(
    config: ComparisonConfig,
    folder: Path,
    workers: Workers | None = None,
    progress: Progress = silent,
    minutes: float = math.inf,
) -> Comparison:
    """Measure all cells of a grid that the folder does not hold yet.

    Args:
        config: The grid.
        folder: Where images, cells and settings are kept. What is finished is never done again: a cell is known by the
            content of the model and the data and by every setting that counts, so that a grid may grow.
        workers: What does the work; by default this process.
        progress: Called with the tasks done and their number.
        minutes: Nothing is begun after so long; see `Comparison.missing`.

    Raises:
        D4CError: A setting, a model or the data cannot be used. What is finished is kept.
    """
    (comparison,) = compare_all([config], folder, workers, progress, minutes)
    if not comparison.missing and all("unfit" in r for cell, r in comparison.results.items() if not cell.is_float):
        raise SettingError(next(iter(comparison.unfit.values())))
    return comparison


def compare_all(
    configs: Sequence[ComparisonConfig],
    folder: Path,
    workers: Workers | None = None,
    progress: Progress = silent,
    minutes: float = math.inf,
) -> list[Comparison]:
    """Measure several grids that share images, cells and workers; see `compare`.

    The first seed of all grids comes first, then the second one, so that a clock leaves whole grids of fewer seeds.
    """
    deadline = time.monotonic() + 60 * minutes
    configs = [replace(config, device=resolve_device(config.device)) for config in configs]
    for config in configs:
        config.check_data()
    _refuse_occupied(folder)
    for part in (CELLS, IMAGES):
        (folder / part).mkdir(parents=True, exist_ok=True)
    stores = stores_of(configs, folder)
    with locked(folder / LOCK, folder):
        write_json(folder / CONFIG, configs[-1].to_dict())
        work(stores, workers or LocalWorkers(1, configs[0].device), progress, deadline)
    return [_measured(store) for store in stores]


def load_comparison(folder: Path) -> Comparison:
    """Read a finished comparison.

    Raises:
        ArtifactError: The folder does not hold one, or some of its cells are not measured yet.
    """
    data = read_json(folder / CONFIG, ArtifactError, "give a folder that d4c compare wrote")
    comparison = _measured(Store(comparison_config(data), folder))
    if comparison.missing:
        raise ArtifactError(f"{folder} is not finished; run d4c compare again.")
    return comparison


def _measured(store: Store) -> Comparison:
    done = [cell for cell in cells(store.config) if store.is_done(cell)]
    return Comparison(store.config, {cell: store.result(cell) for cell in done})


def _refuse_occupied(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file, but the output must be a folder; choose another path.")
    if not is_empty(folder) and not (folder / CONFIG).is_file():
        raise SettingError(f"{folder} holds files and is not a comparison; choose an empty or a new folder.")
