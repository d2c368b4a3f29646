"""What the calibration images are like beside noise, dead leaves and real pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from d4c.evaluation.dataset import AnyDataset, Dataset
from d4c.inspection.inspect_sets import MIN_IMAGES, inspect
from d4c.progress import Progress, silent

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet
    from d4c.inspection.report import Inspection
    from d4c.models.clip import CLIP


def image_sets(
    clip: CLIP, sets: Mapping[str, CalibrationSet], dataset: AnyDataset | None, progress: Progress = silent
) -> Inspection:
    """Inspect calibration images beside controls, and beside real pictures if there are enough.

    Args:
        clip: The float model.
        sets: Calibration sets by name, each of at least 4 images.
        dataset: Real pictures.
        progress: Called with thousandths of the work.
    """
    count = min(map(len, sets.values()))
    real = _pictures(dataset) if dataset is not None and len(dataset) >= count else None
    return inspect(clip, sets, real, progress=progress)


def _pictures(dataset: AnyDataset) -> Dataset:
    """The pictures of a dataset, whatever it says about them."""
    if isinstance(dataset, Dataset):
        return dataset
    labels = np.zeros(len(dataset), np.int64)
    return Dataset(dataset.name, ("picture",), labels, dataset.read, location=dataset.location)


def can_inspect(images: CalibrationSet) -> bool:
    """Whether a set has enough images to be inspected."""
    return len(images) >= MIN_IMAGES
