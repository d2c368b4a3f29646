"""`inspect`: compares sets of images with controls and real images in every measure of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import prompt_features, resolve_prompts
from d4c.errors import DataError, SettingError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset
from d4c.inspection.activations import fit_ranges, watch_ranges
from d4c.inspection.coverage import coverage
from d4c.inspection.embedding import likeness
from d4c.inspection.extra import require
from d4c.inspection.features import BATCH, unit_features
from d4c.inspection.report import Inspection, SetReport
from d4c.inspection.spectrum import luma
from d4c.inspection.structure import structure, watch_patches
from d4c.models.clip import CLIP
from d4c.models.config import Activation
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import demo_models, load
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.storage.outputs import check_output, output_folder
from d4c.synthesis.synthesize import synthesize

KIND = "inspection"
"""What the manifest of an inspection calls it."""
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
        targets = None
        if name in sets:
            targets = torch.tensor([prompt_index.get(prompt, -1) for prompt in sets[name].prompts[:count]])
        layer_ranges = ranges.by_layer()
        reports[name] = SetReport(
            source=sources[name],
            coverage=coverage(features[name], texts, clip.logit_scale, targets),
            structure=structure(patches, luma(clip, pixels[name])),
            likeness=None if name == reference else likeness(features[name], features[reference]),
            ranges=layer_ranges,
            fits=fit_ranges(layer_ranges, layer_ranges if name == reference else reports[reference].ranges),
        )
    return Inspection(
        model=clip.name,
        images=count,
        reference=reference,
        prompts=prompts,
        sets={name: reports[name] for name in pixels},
        features={name: features[name] for name in pixels},
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


def inspect_folders(
    folders: Sequence[Path],
    model: str | None = None,
    real: str | None = None,
    output: Path | None = None,
    *,
    pretrained: str | None = None,
    activation: Activation | None = None,
    heads: tuple[int, int] | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Report = "auto",
) -> Inspection:
    """Inspect saved calibration sets, and optionally write numbers and pictures to a folder.

    Sets are named by their method, with a number where one comes twice.

    Args:
        folders: Folders that `CalibrationSet.save` wrote.
        model: The model to measure with, as `load` takes it; by default the embedded model that the first set was made
            with.
        real: Real images to compare with, a spec of `load_dataset`.
        output: Folder to write, which appears whole or not at all.
        pretrained: Weights of the model, as `load` takes them.
        activation: Activation of the model, as `load` takes it.
        heads: Attention heads of the model, as `load` takes them.
        image_size: Side of its pictures, likewise.
        device: Device of the model.
        seed: Seed of the controls.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        All measures by set, as `inspect` returns them.

    Raises:
        ArtifactError: A folder is not a calibration set, or `output` holds something that d4c did not write.
        SettingError: The model has to be named, or a library for pictures is not installed.
        CheckpointError: The model cannot be loaded.
        DataError: `inspect` cannot use the sets or the real images.
    """
    if output is not None:
        # Checked before the work, which would be lost otherwise.
        check_output(output, KIND)
        for module in ("matplotlib", "umap"):
            require(module)
    sets: dict[str, CalibrationSet] = {}
    sources: dict[str, str] = {}
    for folder in folders:
        images = CalibrationSet.load(folder)
        name = unused_name(str(images.provenance.get("method", folder.name)), (*sets, *CONTROLS, REAL))
        sets[name], sources[name] = images, str(folder)
    if model is None:
        clip = embedded_model(sets, device)
    else:
        clip = load(model, pretrained, device, activation=activation, heads=heads, image_size=image_size)
    with nullcontext() if output is None else output_folder(output, KIND) as new:
        inspection = inspect(clip, sets, real, seed=seed, progress=progress)
        named = {name: replace(inspection.sets[name], source=source) for name, source in sources.items()}
        inspection = replace(inspection, sets={**inspection.sets, **named})
        if new is not None:
            inspection.write(new)
    return inspection


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


def embedded_model(sets: Mapping[str, CalibrationSet], device: str) -> CLIP:
    """Load the embedded model that the first of the sets was made with; raise SettingError if it is another model."""
    record = next(iter(sets.values())).provenance.get("model")
    name, digest = (record.get("name"), record.get("sha256")) if isinstance(record, dict) else (None, None)
    if name in demo_models():
        clip = load(str(name), device=device)
        if model_hash(clip) == digest:
            return clip
    raise SettingError(
        f"The images were made with {name!r}, which is not an embedded model; name the model with --model."
    )


def unused_name(name: str, used: Sequence[str]) -> str:
    """Return the name, followed by the first number from 2 that makes it unused if it is used."""
    choices = [name, *(f"{name} {number}" for number in range(2, len(used) + 3))]
    return next(choice for choice in choices if choice not in used)
