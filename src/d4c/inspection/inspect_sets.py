"""`inspect`: sets of images side by side, in every measure of this package, beside controls and real images."""

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
from d4c.files import atomic_folder, refuse_occupied
from d4c.inspection.activations import fit_ranges, watch_ranges
from d4c.inspection.coverage import coverage
from d4c.inspection.embedding import likeness
from d4c.inspection.extra import require
from d4c.inspection.features import BATCH, unit_features
from d4c.inspection.report import RECORD, Inspection, SetReport
from d4c.inspection.spectrum import luma
from d4c.inspection.structure import structure, watch_patches
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import demo_models, load
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.synthesis.synthesize import synthesize

REAL = "real"
CONTROLS = ("noise", "leaves")
FEWEST = 4
"""Images that a set needs at least, for the map and the nearest neighbors."""


def inspect(
    clip: CLIP,
    sets: Mapping[str, CalibrationSet],
    real: str | Dataset | None = None,
    *,
    seed: int = 0,
    progress: Report = "auto",
) -> Inspection:
    """Measure sets of calibration images, by name, beside noise, dead leaves and, if given, real images.

    All sets count with as many images as the smallest of `sets` has, the first ones, because most measures depend on
    the number; `real`, a spec of `load_dataset` or a `Dataset`, is thinned evenly to it. The reference that likeness
    and activation ranges are relative to is "real", or without real images "leaves", which come nearest to the
    statistics of photographs among what needs no data. Coverage is over all prompts that the sets were made for, or
    over the project's own 180 nouns if there are none. `seed` is that of the controls.

    Raises DataError for sets that do not fit the model, have fewer than 4 images or the name of a control, and for
    too few real images. `progress` is called with (thousandths done, 1000); "auto" shows a bar on a terminal, None
    shows nothing.
    """
    if not sets:
        raise DataError("There is no set of images to inspect; give at least one.")
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
    pixels = {name: images.pixels[:count] for name, images in sets.items()}
    sources = dict.fromkeys(sets, "given")
    for name in CONTROLS:
        pixels[name] = synthesize(clip, name, images=count, seed=seed, progress=None).pixels
        sources[name] = f"made here, seed {seed}"
    if real is not None:
        data = load_dataset(real)
        pixels[REAL], sources[REAL] = real_pixels(clip, data, count), data.name
    reference = CONTROLS[-1] if real is None else REAL

    made_for = tuple(dict.fromkeys(text for images in sets.values() for text in images.texts))
    prompts = made_for or resolve_prompts(None)
    texts = prompt_features(clip, prompts).cpu()
    prompt_index = {prompt: index for index, prompt in enumerate(prompts)}
    # The reference first, since the others are relative to it.
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


def inspect_folders(
    folders: Sequence[Path],
    model: str | None = None,
    real: str | None = None,
    output: Path | None = None,
    *,
    pretrained: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Report = "auto",
) -> Inspection:
    """`inspect` saved calibration sets, and write numbers and pictures to `output` as one folder if it is given.

    Without `model` the embedded model that the first set was made with is used. Sets are named by their method, with
    a number where one comes twice. Raises ArtifactError for what is not a calibration set and for an output folder that
    holds something else, SettingError if the model has to be named, and what `inspect` and `load` raise.
    """
    if output is not None:
        # Not at the end, when the work would be lost.
        refuse_occupied(output, is_inspection, "an inspection")
        for module in ("matplotlib", "umap"):
            require(module)
    sets: dict[str, CalibrationSet] = {}
    sources: dict[str, str] = {}
    for folder in folders:
        images = CalibrationSet.load(folder)
        name = free_name(str(images.provenance.get("method", folder.name)), (*sets, *CONTROLS, REAL))
        sets[name], sources[name] = images, str(folder)
    clip = embedded_model(sets, device) if model is None else load(model, pretrained, device)
    with nullcontext() if output is None else atomic_folder(output) as new:
        inspection = inspect(clip, sets, real, seed=seed, progress=progress)
        named = {name: replace(inspection.sets[name], source=source) for name, source in sources.items()}
        inspection = replace(inspection, sets={**inspection.sets, **named})
        if new is not None:
            inspection.write(new)
    return inspection


def check_fits(clip: CLIP, name: str, images: CalibrationSet) -> None:
    """Raise DataError for a set that cannot go through the model beside the others."""
    if name in (*CONTROLS, REAL):
        raise DataError(f"A set of images is called {name!r}, which is a set that is always made here; rename it.")
    if len(images) < FEWEST:
        raise DataError(f"The set {name!r} has {len(images)} images, expected at least {FEWEST}; make more.")
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
    """`count` images of a dataset, evenly spread, preprocessed: [count, 3, S, S]."""
    if len(data) < count:
        raise DataError(
            f"{data.name} has {len(data)} images, expected at least {count}, as many as each set has; "
            "give more real images or a smaller set."
        )
    return torch.cat(list(pixel_batches(data.subset(count), clip.preprocess, BATCH)))


def embedded_model(sets: Mapping[str, CalibrationSet], device: str) -> CLIP:
    """The embedded model that the first of the sets was made with."""
    made_with = next(iter(sets.values())).provenance.get("model")
    name, digest = (made_with.get("name"), made_with.get("sha256")) if isinstance(made_with, dict) else (None, None)
    if name in demo_models():
        clip = load(str(name), device=device)
        if model_hash(clip) == digest:
            return clip
    raise SettingError(
        f"The images were made with {name!r}, which is not an embedded model; name the model with --model."
    )


def free_name(name: str, taken: Sequence[str]) -> str:
    """The name, or the name with the first number from 2 on that makes it a new one."""
    choices = [name, *(f"{name} {number}" for number in range(2, len(taken) + 3))]
    return next(choice for choice in choices if choice not in taken)


def is_inspection(folder: Path) -> bool:
    """Whether `inspect_folders` wrote this folder."""
    return (folder / RECORD).is_file()
