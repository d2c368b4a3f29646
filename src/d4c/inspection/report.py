"""The results of an inspection as frozen records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from torch import Tensor

from d4c.inspection.activations import Fit, Range
from d4c.inspection.coverage import Coverage
from d4c.inspection.embedding import Likeness, Points
from d4c.inspection.structure import Structure


@dataclass(frozen=True)
class SetReport:
    """All measures of one set.

    Args:
        source: Where the images came from: a folder, a dataset, "made here" or, for sets in memory, "given".
        targets: Prompt that each image was made for, "" where it has none; empty for controls and real images.
        coverage: How the images correspond to prompts.
        structure: How the images are built.
        likeness: Comparison with the reference in embedding space; None for the reference itself.
        ranges: Activation ranges by layer.
        fits: Their comparison with those of the reference, by layer.
    """

    source: str
    targets: tuple[str, ...]
    coverage: Coverage
    structure: Structure
    likeness: Likeness | None
    ranges: dict[str, Range]
    fits: dict[str, Fit]


@dataclass(frozen=True)
class Inspection:
    """All measures of several sets with the same number of images.

    Args:
        model: Name of the model that measured them.
        images: Number of images of each set.
        reference: Name of the set that likeness and ranges are relative to.
        prompts: Prompts that coverage is about.
        sets: Measures by name of the set.
        features: Unit embeddings [images, D] by name of the set.
        map: Coordinates of each image along the two directions in which the embeddings of all sets vary most, by set.
        map_share: Share of the variance that these two directions have.
    """

    model: str
    images: int
    reference: str
    prompts: tuple[str, ...]
    sets: dict[str, SetReport]
    features: dict[str, Tensor] = field(repr=False)
    map: dict[str, Points] = field(repr=False)
    map_share: float

    def summary(self) -> dict[str, dict[str, Any]]:
        """Summarize each set: means over images, medians over layers, and the layer that fits the reference least."""
        rows = {}
        for name, measured in self.sets.items():
            likeness = measured.likeness
            worst = min(measured.fits, key=lambda layer: measured.fits[layer].overlap)
            rows[name] = {
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
                "nearest_neighbor": likeness.nearest_neighbor if likeness else None,
                "centroid_cosine": likeness.centroid_cosine if likeness else None,
                "width": median(fit.width for fit in measured.fits.values()),
                "extent": median(fit.extent for fit in measured.fits.values()),
                "overlap": median(fit.overlap for fit in measured.fits.values()),
                "worst_layer": worst,
                "worst_overlap": measured.fits[worst].overlap,
            }
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form of every number, the summary first."""
        return {
            "model": self.model,
            "images": self.images,
            "reference": self.reference,
            "summary": self.summary(),
            "prompts": self.prompts,
            "sets": {name: asdict(measured) for name, measured in self.sets.items()},
            "map": self.map,
            "map_share": self.map_share,
        }
