"""`inspect`: compares sets of images with controls and real images in every measure of this package."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import prompt_features, resolve_prompts
from d4c.errors import DataError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset
from d4c.inspection.activations import fit_ranges, watch_ranges
from d4c.inspection.coverage import coverage
from d4c.inspection.embedding import likeness, principal_map
from d4c.inspection.features import BATCH, unit_features
from d4c.inspection.report import Inspection, SetReport
from d4c.inspection.spectrum import luma
from d4c.inspection.structure import structure, watch_patches
from d4c.models.clip import CLIP
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.synthesis.synthesize import synthesize

REAL = "real"
CONTROLS = ("noise", "leaves")
"""Methods whose images are always measured beside the sets."""
MIN_IMAGES = 4
"""Smallest size of a set that the map and the nearest neighbors make sense for."""


def inspect(
    clip: CLIP,
    sets: Mapping[str, CalibrationSet],
    real: str | Dataset | None = None,
    *,
    seed: int = 0,
    progress: Report = "auto",
) -> Inspection:
    """Measure sets of calibration images beside noise, dead leaves and, optionally, real images.

    Most measures depend on the number of images, so each set counts with its first images, as many as the smallest
    one has. Likeness and activation ranges are relative to a reference: "real", or without real images "leaves", which
    is closest to the statistics of photographs among the methods that need no data. Coverage is over all prompts that
    the sets were made for, or over d4c's 180 nouns if there are none.

    Args:
        clip: The model to measure with.
        sets: Calibration sets by name.
        real: Real images to compare with, evenly thinned to the size of the sets: a spec of `load_dataset` or a
            `Dataset`.
        seed: Seed of the controls.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        All measures by set, those of the controls and of the real images among them.

    Raises:
        DataError: A set does not fit the model, has fewer than 4 images or the name of a control, or there are too few
            real images.
    """
    if not sets:
        raise DataError("There is no set of images to inspect, expected at least one; give a calibration set.")
    for name, images in sets.items():
        check_fits(clip, name, images)
    with reporting(progress, "inspect") as report:
        report(0, WHOLE)
        return _inspect(clip, sets, real, seed, report)


def _inspect(
    clip: CLIP, sets: Mapping[str, CalibrationSet], real: str | Dataset | None, seed: int, progress: Progress
) -> Inspection:
    """`inspect` for sets that fit the model."""
    count = min(map(len, sets.values()))
    pixels, sources = _pixels_and_sources(clip, sets, real, count, seed)
    reference = CONTROLS[-1] if real is None else REAL

    set_prompts = tuple(dict.fromkeys(text for images in sets.values() for text in images.texts))
    prompts = set_prompts or resolve_prompts(None)
    texts = prompt_features(clip, prompts).cpu()
    prompt_index = {prompt: index for index, prompt in enumerate(prompts)}
    # The reference comes first, since the others are relative to it.
    order = sorted(pixels, key=lambda name: name != reference)
    features: dict[str, Tensor] = {}
    reports: dict[str, SetReport] = {}
    for name, progress_of_set in zip(order, parts(progress, [1] * len(order)), strict=True):
        with watch_patches(clip) as patches, watch_ranges(clip) as ranges:
            features[name] = unit_features(clip, pixels[name], progress_of_set)
        targets = sets[name].prompts[:count] if name in sets else ()
        indices = torch.tensor([prompt_index.get(prompt, -1) for prompt in targets]) if targets else None
        layer_ranges = ranges.by_layer()
        reports[name] = SetReport(
            source=sources[name],
            targets=targets,
            coverage=coverage(features[name], texts, clip.logit_scale, indices),
            structure=structure(patches, luma(clip, pixels[name])),
            likeness=None if name == reference else likeness(features[name], features[reference]),
            ranges=layer_ranges,
            fits=fit_ranges(layer_ranges, layer_ranges if name == reference else reports[reference].ranges),
        )
    features = {name: features[name] for name in pixels}
    points, share = principal_map(features)
    return Inspection(
        model=clip.name,
        images=count,
        reference=reference,
        prompts=prompts,
        sets={name: reports[name] for name in pixels},
        features=features,
        map=points,
        map_share=share,
    )


def _pixels_and_sources(
    clip: CLIP, sets: Mapping[str, CalibrationSet], real: str | Dataset | None, count: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`count` images of every set, control and real dataset, and where they came from, by name."""
    pixels = {name: images.pixels[:count] for name, images in sets.items()}
    sources = dict.fromkeys(sets, "given")
    for name in CONTROLS:
        pixels[name] = synthesize(clip, name, images=count, seed=seed, progress=None).pixels
        sources[name] = f"made here, seed {seed}"
    if real is not None:
        data = load_dataset(real)
        pixels[REAL], sources[REAL] = real_pixels(clip, data, count), data.name
    return pixels, sources


def check_fits(clip: CLIP, name: str, images: CalibrationSet) -> None:
    """Raise DataError for a set that cannot go through the model beside the others."""
    if name in (*CONTROLS, REAL):
        raise DataError(f"A set of images is named {name!r}, which is the name of a control; rename the set.")
    if len(images) < MIN_IMAGES:
        raise DataError(f"The set {name!r} has {len(images)} images, expected at least {MIN_IMAGES}; make more.")
    side = images.pixels.shape[-1]
    if side != clip.image_size:
        raise DataError(
            f"The set {name!r} has images of {side} x {side} pixels and {clip.name!r} takes {clip.image_size} x "
            f"{clip.image_size}; inspect it with the model that it was made for."
        )
    for key, expected in (("mean", clip.config.mean), ("std", clip.config.std)):
        if any(abs(a - b) > 1e-4 for a, b in zip(images.provenance[key], expected, strict=True)):
            raise DataError(
                f"The set {name!r} was normalized with {key} {list(images.provenance[key])} and {clip.name!r} has "
                f"{list(expected)}; inspect it with the model that it was made for."
            )


def real_pixels(clip: CLIP, data: Dataset, count: int) -> Tensor:
    """Preprocess `count` images of a dataset, evenly spread: [count, 3, S, S]."""
    if len(data) < count:
        raise DataError(
            f"{data.name} has {len(data)} images, expected at least {count}, as many as each set has; "
            "give more real images or a smaller set."
        )
    return torch.cat(list(pixel_batches(data.subset(count), clip.preprocess, BATCH)))
