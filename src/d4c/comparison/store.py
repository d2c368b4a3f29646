"""The files of a grid: a folder of images for each source, a file for each cell, named by all that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from d4c.calibration.prompts import resolve_prompts
from d4c.comparison.config import REAL, Cell, ComparisonConfig, Source, name_of, prompts_file, real_specs
from d4c.errors import ArtifactError
from d4c.evaluation.metrics.record import KIND as METRICS
from d4c.evaluation.metrics.record import LEADING
from d4c.reading.json_file import read_json
from d4c.reading.schema import AnyText, Either, Maybe, Number, OneOf, Record, Table, Text, Whole, check
from d4c.run.origins import data_origin, model_origin
from d4c.storage.files import write_json
from d4c.storage.manifest import fingerprint, is_done

CELLS, IMAGES = "cells", "images"
"""Folders within that of a grid."""
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
                "model_sha256": Text(64),
                "device": Text(),
                "versions": Table(Maybe(Text())),
                "results": Table(MEASURED),
            }
        ),
    )
)
"""What the file of a cell holds."""

Results = dict[Cell, dict[str, Any]]
"""What cells ended with."""


class Origins:
    """What tells models and datasets apart; each is read once for all grids that share the record."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str | None], str] = {}
        self.datasets: dict[str, str | None] = {}

    def model(self, name: str, pretrained: str | None) -> str:
        """What tells a model apart."""
        if (name, pretrained) not in self.models:
            self.models[name, pretrained] = model_origin(name, pretrained) or _hash_of_weights(name, pretrained)
        return self.models[name, pretrained]

    def data(self, spec: str) -> str | None:
        """What tells a dataset apart."""
        if spec not in self.datasets:
            self.datasets[spec] = data_origin(spec)
        return self.datasets[spec]


def stores_of(configs: Sequence[ComparisonConfig], folder: Path) -> list[Store]:
    """The stores of several grids in one folder."""
    origins = Origins()
    return [Store(config, folder, origins) for config in configs]


class Store:
    """The files of a grid."""

    def __init__(self, config: ComparisonConfig, folder: Path, origins: Origins | None = None) -> None:
        self.config, self.folder, self.origins = config, folder, origins or Origins()
        self.keys: dict[Cell, str] = {}

    @cached_property
    def models(self) -> dict[str, str]:
        """What tells each model apart."""
        return {name: self.origins.model(name, self.config.pretrained) for name in self.config.models}

    @cached_property
    def data(self) -> dict[str, str | None]:
        """What tells each dataset apart."""
        specs = (*self.config.datasets, *real_specs(self.config.methods))
        return {spec: self.origins.data(spec) for spec in specs}

    @cached_property
    def prompts(self) -> dict[Path, str]:
        """What tells the prompts of each file apart."""
        files = filter(None, map(prompts_file, self.config.methods))
        return {file: fingerprint(list(resolve_prompts(file))) for file in files}

    def is_done(self, cell: Cell) -> bool:
        """Whether the file of a cell is there; it appears whole, and its name is the key of all that counts."""
        return self.file(cell).is_file()

    def result(self, cell: Cell) -> dict[str, Any]:
        """What a cell ended with. Raises ArtifactError for a file that is not what was written."""
        data = read_json(self.file(cell), ArtifactError, ADVICE)
        check(data, RESULT, str(self.file(cell)), ArtifactError, ADVICE)
        return dict(data)

    def keep(self, cell: Cell, result: dict[str, Any]) -> None:
        """Write what a cell ended with."""
        write_json(self.file(cell), {"cell": asdict(cell), "key": self._cell_key(cell), **result})

    def file(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / CELLS / f"{self._cell_key(cell)[:32]}.json"

    def images(self, source: Source) -> Path:
        """The folder of a source's images."""
        name = f"{name_of(source.method)}-{source.seed}-{fingerprint(self.source_key(source))[:16]}"
        return self.folder / IMAGES / name

    def has_images(self, source: Source) -> bool:
        """Whether the images of a source are there."""
        return is_done(self.images(source), self.source_key(source))

    def source_key(self, source: Source) -> dict[str, Any]:
        """All that images depend on."""
        settings = asdict(self.config.synthesis(source.method, source.seed))
        key: dict[str, Any] = {"model": self.models[source.model], "method": source.method}
        if file := prompts_file(source.method):
            key["prompts"] = self.prompts[file]
        if not source.method.startswith(REAL):
            return key | {"method": name_of(source.method), "synthesis": settings}
        data = self.data[source.method.removeprefix(REAL)]
        return key | {"data": data, "synthesis": {name: settings[name] for name in ("images", "seed")}}

    def _cell_key(self, cell: Cell) -> str:
        if cell not in self.keys:
            self.keys[cell] = fingerprint(self._all_that_counts(cell))
        return self.keys[cell]

    def _all_that_counts(self, cell: Cell) -> dict[str, Any]:
        key: dict[str, Any] = {
            "model": self.models[cell.model],
            "data": [[spec, self.data[spec]] for spec in self.config.datasets],
            "limit": self.config.limit,
        }
        if not cell.is_float:
            key |= {
                "images": self.source_key(cell.source),
                "quantization": self.config.quantization(cell).resolved().to_dict(),
                "latency": self.config.latency,
            }
        return key


def _hash_of_weights(name: str, pretrained: str | None) -> str:
    """What tells a model apart whose files are known only after a download."""
    from d4c.models.formats.identity import model_hash
    from d4c.models.formats.load import load

    return model_hash(load(name, pretrained))
