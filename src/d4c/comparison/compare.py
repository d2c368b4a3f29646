"""`compare`: every cell of a grid as a file that appears whole, and the tables of all cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from d4c.calibration.images import KIND as CALIBRATION
from d4c.calibration.images import CalibrationSet
from d4c.comparison.config import REAL, Cell, ComparisonConfig, Source, cells, comparison_config
from d4c.comparison.local_workers import LocalWorkers, Task, Workers
from d4c.device import resolve_device
from d4c.errors import ArtifactError, SettingError
from d4c.evaluation.metrics.record import KIND as METRICS
from d4c.evaluation.metrics.record import LEADING
from d4c.progress import Progress, silent
from d4c.reading.json_file import read_json
from d4c.reading.schema import AnyText, Either, Maybe, Number, OneOf, Record, Table, Text, Whole, check
from d4c.run.origins import data_origin, model_origin
from d4c.storage.files import write_json
from d4c.storage.locks import LOCK, locked
from d4c.storage.manifest import fingerprint, is_done, stage_folder
from d4c.storage.outputs import is_empty

CONFIG = "comparison.json"
ADVICE = "remove the file, and the cell is measured again"
MEASURED = Record(
    {
        "figure": OneOf(LEADING),
        "metrics": METRICS,
        "hits": Maybe(AnyText(1 << 24)),
        "predictions_sha256": Text(64),
    }
)
RESULT = Either(
    (
        Record({"cell": Record(), "key": Text(64), "unfit": Text()}),
        Record(
            {
                "cell": Record(),
                "key": Text(64),
                "bytes": Whole(0, 1 << 62),
                "seconds": Table(Number(0, 1e9)),
                "results": Table(MEASURED),
            }
        ),
    )
)
"""What the file of a cell holds."""

Store = dict[Cell, dict[str, Any]]
"""What cells ended with."""


@dataclass(frozen=True)
class Comparison:
    """A finished grid: its settings, and what each cell ended with, in the order of the grid."""

    config: ComparisonConfig
    results: Store

    @property
    def unfit(self) -> dict[str, str]:
        """Why a method cannot serve a model, by both names."""
        refused = [(cell, result) for cell, result in self.results.items() if "unfit" in result]
        return {f"{cell.method} on {cell.model}": result["unfit"] for cell, result in refused}


def compare(
    config: ComparisonConfig, folder: Path, workers: Workers | None = None, progress: Progress = silent
) -> Comparison:
    """Measure all cells of a grid that the folder does not hold yet.

    Args:
        config: The grid.
        folder: Where images, cells and settings are kept. What is finished is never done again: a cell is known by the
            content of the model and the data and by every setting that counts, so that a grid may grow.
        workers: What does the work; by default this process.
        progress: Called with the tasks done and their number.

    Raises:
        D4CError: A setting, a model or the data cannot be used. What is finished is kept.
    """
    config = replace(config, device=resolve_device(config.device))
    config.check_data()
    _refuse_occupied(folder)
    folder.mkdir(parents=True, exist_ok=True)
    job = _Job(config, folder)
    with locked(folder / LOCK, folder):
        write_json(folder / CONFIG, config.to_dict())
        job.work(workers or LocalWorkers(1, config.device), progress)
    comparison = Comparison(config, {cell: job.result(cell) for cell in cells(config)})
    if all("unfit" in result for cell, result in comparison.results.items() if not cell.is_float):
        raise SettingError(next(iter(comparison.unfit.values())))
    return comparison


def load_comparison(folder: Path) -> Comparison:
    """Read a finished comparison.

    Raises:
        ArtifactError: The folder does not hold one, or some of its cells are not measured yet.
    """
    data = read_json(folder / CONFIG, ArtifactError, "give a folder that d4c compare wrote")
    config = comparison_config(data)
    job = _Job(config, folder)
    for cell in cells(config):
        if not job.is_done(cell):
            raise ArtifactError(f"{folder} is not finished; run d4c compare again.")
    return Comparison(config, {cell: job.result(cell) for cell in cells(config)})


class _Job:
    """The files of a grid, and what is to be done."""

    def __init__(self, config: ComparisonConfig, folder: Path) -> None:
        self.config, self.folder = config, folder

    @cached_property
    def models(self) -> dict[str, str]:
        """What tells each model apart."""
        return {name: self._model(name) for name in self.config.models}

    @cached_property
    def data(self) -> dict[str, str | None]:
        """What tells each dataset apart."""
        return {spec: data_origin(spec) for spec in self.config.datasets}

    def work(self, workers: Workers, progress: Progress) -> None:
        """Make what is missing."""
        missing = [cell for cell in cells(self.config) if not self.is_done(cell)]
        sources = [s for s in dict.fromkeys(c.source for c in missing if not c.is_float) if not self._has_images(s)]
        done, total = 0, len(sources) + len(missing)
        progress(done, total)
        for number, images in workers.results(self._image_tasks(sources)):
            if images.unfit is not None:
                for cell in missing:
                    if cell.source == sources[number]:
                        self._keep(cell, {"unfit": images.unfit})
            else:
                key = self._source_key(sources[number])
                with stage_folder(self._images(sources[number]), CALIBRATION, key) as new:
                    images.unpacked().write(new)
            done += 1
            progress(done, total)
        missing = [cell for cell in missing if not self.is_done(cell)]
        for number, result in workers.results(self._cell_tasks(missing)):
            self._keep(missing[number], result)
            done += 1
            progress(done, total)

    def is_done(self, cell: Cell) -> bool:
        """Whether the file of a cell is there; it appears whole, and its name is the key of all that counts."""
        return self._file(cell).is_file()

    def result(self, cell: Cell) -> dict[str, Any]:
        """What a cell ended with. Raises ArtifactError for a file that is not what was written."""
        data = read_json(self._file(cell), ArtifactError, ADVICE)
        check(data, RESULT, str(self._file(cell)), ArtifactError, ADVICE)
        return dict(data)

    def _image_tasks(self, sources: list[Source]) -> Iterator[Task]:
        from d4c.comparison.tasks import make_images

        for source in sources:
            yield Task(f"images of {source.method}", make_images, (self.config, source))

    def _cell_tasks(self, missing: list[Cell]) -> Iterator[Task]:
        from d4c.comparison.tasks import Images, measure_cell

        source, images = None, None
        for cell in missing:
            if not cell.is_float and cell.source != source:
                source, images = cell.source, Images.of(CalibrationSet.load(self._images(cell.source)))
            yield Task(str(cell), measure_cell, (self.config, cell, None if cell.is_float else images))

    def _keep(self, cell: Cell, result: dict[str, Any]) -> None:
        write_json(self._file(cell), {"cell": asdict(cell), "key": self._cell_key(cell), **result})

    def _file(self, cell: Cell) -> Path:
        (self.folder / "cells").mkdir(exist_ok=True)
        return self.folder / "cells" / f"{self._cell_key(cell)[:32]}.json"

    def _images(self, source: Source) -> Path:
        (self.folder / "images").mkdir(exist_ok=True)
        name = "real" if source.method.startswith(REAL) else source.method
        return self.folder / "images" / f"{name}-{source.seed}-{fingerprint(self._source_key(source))[:16]}"

    def _has_images(self, source: Source) -> bool:
        return is_done(self._images(source), self._source_key(source))

    def _source_key(self, source: Source) -> dict[str, Any]:
        settings = asdict(self.config.synthesis(source.method, source.seed))
        key: dict[str, Any] = {"model": self.models[source.model], "method": source.method}
        if not source.method.startswith(REAL):
            return key | {"synthesis": settings}
        data = data_origin(source.method.removeprefix(REAL))
        return key | {"data": data, "synthesis": {name: settings[name] for name in ("images", "seed")}}

    def _cell_key(self, cell: Cell) -> str:
        key: dict[str, Any] = {
            "model": self.models[cell.model],
            "data": [[spec, self.data[spec]] for spec in self.config.datasets],
            "limit": self.config.limit,
        }
        if not cell.is_float:
            key |= {
                "images": self._source_key(cell.source),
                "quantization": self.config.quantization(cell).resolved().to_dict(),
                "latency": self.config.latency,
            }
        return fingerprint(key)

    def _model(self, name: str) -> str:
        origin = model_origin(name, self.config.pretrained)
        if origin is None:
            from d4c.models.formats.identity import model_hash
            from d4c.models.formats.load import load

            origin = model_hash(load(name, self.config.pretrained))
        return origin


def _refuse_occupied(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file, but the output must be a folder; choose another path.")
    if not is_empty(folder) and not (folder / CONFIG).is_file():
        raise SettingError(f"{folder} holds files and is not a comparison; choose an empty or a new folder.")
