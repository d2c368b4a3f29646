"""What an inspection found, as numbers and as figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from torch import Tensor

from d4c.inspection.activations import Fit, Range
from d4c.inspection.coverage import Coverage
from d4c.inspection.embedding import Likeness, embedding_map
from d4c.inspection.figures import activations_figure, coverage_figure, embedding_figure, structure_figure
from d4c.inspection.structure import Structure

RECORD = "inspection.json"


@dataclass(frozen=True)
class SetReport:
    """All measures of one set; `likeness` (none for the reference itself) and `fits` compare it with the reference.

    `source` says where the images came from: a folder, a dataset, "made here" or, for sets in memory, "given".
    `ranges` and `fits` are by the name of a layer.
    """

    source: str
    coverage: Coverage
    structure: Structure
    likeness: Likeness | None
    ranges: dict[str, Range]
    fits: dict[str, Fit]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: for each set by its name, measured on the same number of `images`.

    `prompts` are those that coverage is about. `features` are the unit embeddings [images, D] behind the map.
    """

    model: str
    images: int
    reference: str
    prompts: tuple[str, ...]
    sets: dict[str, SetReport]
    features: dict[str, Tensor] = field(repr=False)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Few numbers a set: means over images, medians over layers, and the layer that fits the reference least."""
        out = {}
        for name, found in self.sets.items():
            near = found.likeness
            worst = min(found.fits, key=lambda layer: found.fits[layer].overlap)
            out[name] = {
                "nearest_prompts": found.coverage.nearest_prompts,
                "expected_prompts": found.coverage.expected_prompts,
                "recognized": found.coverage.recognized,
                "nearest_cosine": fmean(found.coverage.nearest_cosine),
                "kl": fmean(found.coverage.kl),
                "kl_of_mean": found.coverage.kl_of_mean,
                "fg_bg_variance": fmean(found.structure.variance),
                "fg_bg_contrast": fmean(found.structure.contrast),
                "entropy": fmean(found.structure.entropy),
                "slope": fmean(found.structure.slope),
                "nearest_neighbor": near.nearest_neighbor if near else None,
                "centroid_cosine": near.centroid_cosine if near else None,
                "width": median(fit.width for fit in found.fits.values()),
                "extent": median(fit.extent for fit in found.fits.values()),
                "overlap": median(fit.overlap for fit in found.fits.values()),
                "worst_layer": worst,
                "worst_overlap": found.fits[worst].overlap,
            }
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of every number, the summary first."""
        return {
            "model": self.model,
            "images": self.images,
            "reference": self.reference,
            "summary": self.summary(),
            "prompts": self.prompts,
            "sets": {name: asdict(found) for name, found in self.sets.items()},
        }

    def write(self, folder: Path) -> None:
        """Put inspection.json, coverage.png, structure.png, embedding.png and activations.png into a folder.

        Raises SettingError where matplotlib or umap-learn is not installed.
        """
        points = embedding_map(self.features)
        record = json.dumps({**self.to_dict(), "map": points}, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / RECORD).write_text(record + "\n", encoding="utf-8")
        reports = self.sets
        figures = {
            "coverage": coverage_figure({name: found.coverage for name, found in reports.items()}),
            "structure": structure_figure({name: found.structure for name, found in reports.items()}),
            "embedding": embedding_figure(points),
            "activations": activations_figure({name: found.fits for name, found in reports.items()}, self.reference),
        }
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
