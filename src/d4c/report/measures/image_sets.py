"""What the calibration images are like beside noise, dead leaves and real pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from d4c.evaluation.dataset import AnyDataset, Dataset
from d4c.inspection.inspect_sets import MIN_IMAGES, inspect
from d4c.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

    from d4c.calibration.images import CalibrationSet
    from d4c.inspection.report import Inspection
    from d4c.models.clip import CLIP

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ImageSets:
    """The inspection of the calibration images.

    Attributes:
        inspection: All measures, by set.
        map: Coordinates of each image along the two directions in which the embeddings of all sets vary most.
        share: Share of the variance that these two directions have.
    """

    inspection: Inspection
    map: dict[str, Points]
    share: float


def image_sets(
    clip: CLIP, sets: Mapping[str, CalibrationSet], dataset: AnyDataset | None, progress: Progress = silent
) -> ImageSets:
    """Inspect calibration images beside controls, and beside real pictures if there are enough.

    Args:
        clip: The float model.
        sets: Calibration sets by name, each of at least 4 images.
        dataset: Real pictures.
        progress: Called with thousandths of the work.
    """
    count = min(map(len, sets.values()))
    real = _pictures(dataset) if dataset is not None and len(dataset) >= count else None
    inspection = inspect(clip, sets, real, progress=progress)
    points, share = principal_map(inspection.features)
    return ImageSets(inspection, points, share)


def _pictures(dataset: AnyDataset) -> Dataset:
    """The pictures of a dataset, whatever it says about them."""
    if isinstance(dataset, Dataset):
        return dataset
    labels = np.zeros(len(dataset), np.int64)
    return Dataset(dataset.name, ("picture",), labels, dataset.read, location=dataset.location)


def can_inspect(images: CalibrationSet) -> bool:
    """Whether a set has enough images to be inspected."""
    return len(images) >= MIN_IMAGES


def principal_map(features: Mapping[str, Tensor]) -> tuple[dict[str, Points], float]:
    """Project the embeddings of several sets on their first two principal components.

    Unlike UMAP, which `d4c inspect` draws, it needs no further library and takes no time; distances on it are real.

    Args:
        features: Unit embeddings [N, D] of each set, by name.

    Returns:
        N points for each set, and the share of the variance that the map shows.
    """
    rows = torch.cat(list(features.values())).double()
    rows = rows - rows.mean(0)
    _, values, axes = torch.linalg.svd(rows, full_matrices=False)
    largest = axes[:2].abs().argmax(1, keepdim=True)
    axes = axes[:2] * axes[:2].gather(1, largest).sign()  # the sign of an axis is arbitrary
    points = (rows @ axes.T).split([len(part) for part in features.values()])
    share = float(values[:2].square().sum() / values.square().sum().clamp(min=1e-30))
    return {name: tuple((x, y) for x, y in part.tolist()) for name, part in zip(features, points, strict=True)}, share
