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
    `ranges` and `fits` are by layer name.
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
        for name, measured in self.sets.items():
            near = measured.likeness
            worst = min(measured.fits, key=lambda layer: measured.fits[layer].overlap)
            out[name] = {
                "nearest_prompts": measured.coverage.nearest_prompts,
                "expected_prompts": measured.coverage.expected_prompts,
                "recognized": measured.coverage.recognized,
                "nearest_cosine": fmean(measured.coverage.nearest_cosine),
                "kl": fmean(measured.coverage.kl),
                "kl_of_mean": measured.coverage.kl_of_mean,
                "fg_bg_variance": fmean(measured.structure.variance),
                "fg_bg_contrast": fmean(measured.structure.contrast),
                "entropy": fmean(measured.structure.entropy),
                "slope": fmean(measured.structure.slope),
                "nearest_neighbor": near.nearest_neighbor if near else None,
                "centroid_cosine": near.centroid_cosine if near else None,
                "width": median(fit.width for fit in measured.fits.values()),
                "extent": median(fit.extent for fit in measured.fits.values()),
                "overlap": median(fit.overlap for fit in measured.fits.values()),
                "worst_layer": worst,
                "worst_overlap": measured.fits[worst].overlap,
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
            "sets": {name: asdict(measured) for name, measured in self.sets.items()},
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
            "coverage": coverage_figure({name: measured.coverage for name, measured in reports.items()}),
            "structure": structure_figure({name: measured.structure for name, measured in reports.items()}),
            "embedding": embedding_figure(points),
            "activations": activations_figure(
                {name: measured.fits for name, measured in reports.items()}, self.reference
            ),
        }
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
