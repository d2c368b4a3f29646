"""`gather`: everything that a report says, as one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from d4c.errors import D4CError
from d4c.evaluation.dataset import AnyDataset, CaptionedDataset
from d4c.inspection.report import Inspection
from d4c.progress import Progress, parts, silent
from d4c.quantization.doctor.diagnosis import Diagnosis
from d4c.quantization.doctor.examine import examine
from d4c.quantization.layers.quantized_weight import weighted_layers
from d4c.report.measures.activation_ranges import ActivationRange, activation_ranges
from d4c.report.measures.before_after import Examples, examples
from d4c.report.measures.float_form import FloatForm, float_form
from d4c.report.measures.headline import Headline, headline, run_metrics
from d4c.report.measures.image_sets import can_inspect, image_sets
from d4c.report.measures.layer_errors import LayerError, layer_errors
from d4c.report.measures.predictions import Accuracy, Predictions, accuracy, predict
from d4c.report.measures.remedies import Remedy, remedies
from d4c.report.measures.repeat import Repeat, how_to_repeat
from d4c.report.measures.speed import Speed, measure_speed
from d4c.report.missing import Missing
from d4c.report.subject import Subject
from d4c.run.rows import Row, float_size
from d4c.templates import fill_template

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet
    from d4c.models.clip import CLIP

LIMIT = 200
"""Largest number of pictures that a report looks at."""
LAYER_SAMPLES = 32
"""Images, and prompts, that layers are compared on."""

RANGE_IMAGES = 16
"""Images that activation ranges are compared on."""
COSTS = {"predict": 10.0, "layers": 4.0, "doctor": 2.0, "sets": 3.0}
"""About how long each part takes relative to the others, for the progress."""


@dataclass(frozen=True)
class Layers:
    """The layers of one quantized model.

    Attributes:
        errors: Signal-to-noise ratios; in the order in which the layers run.
        remedies: Layers that stand out, and what to do.
        ranges: Activation ranges before and after, of the image tower.
        left_out: A sentence for each tower that could not be compared.
    """

    errors: tuple[LayerError, ...]
    remedies: tuple[Remedy, ...]
    ranges: tuple[ActivationRange, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """What a report says about one quantized model.

    Attributes:
        name: What the report calls it.
        headline: What a reader should know first.
        layers: Its layers.
        speed: Its latency beside the float model's.
        seconds: How long each stage took.
        repeat: What makes it again.
    """

    name: str
    headline: Headline
    layers: Layers | Missing
    speed: Speed | Missing
    seconds: dict[str, float]
    repeat: Repeat


@dataclass(frozen=True)
class ReportData:
    """Everything that a report says.

    Attributes:
        model: Name of the float model.
        parts: The quantized models, by name.
        rows: The table of the run, if one model is reported and a run made it.
        accuracy: Which tower loses it.
        examples: Captions and neighbors before and after.
        predictions: The dataset whose pictures are shown, and all embeddings.
        diagnosis: What the checkpoint is like.
        sets: What the calibration images are like.
        images: The calibration images, by model.
    """

    model: str
    parts: dict[str, Part]
    rows: tuple[Row, ...]
    accuracy: Accuracy | Missing
    examples: Examples | Missing
    predictions: Predictions | Missing
    diagnosis: Diagnosis | Missing
    sets: Inspection | Missing
    images: dict[str, CalibrationSet]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of all numbers, without pictures and embeddings."""
        left_out = ("predictions", "images", "sets")
        sets = None if isinstance(self.sets, Missing) else self.sets.summary()
        return {**{f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in left_out}, "sets": sets}


NO_DATASET = "No dataset was evaluated; name one with --dataset."
NO_IMAGES = "The calibration images are not beside the model; name their folder with --calibration."
NO_EXPORT = "There is no export beside the model, so its speed was not measured; make one with d4c export."


def gather(
    subjects: Sequence[Subject],
    clip: CLIP,
    dataset: AnyDataset | None,
    *,
    limit: int = LIMIT,
    progress: Progress = silent,
) -> ReportData:
    """Measure everything that a report says.

    Args:
        subjects: Quantized models of one float model, with different names.
        clip: The float model.
        dataset: Pictures with classes, tags or captions, if there are any.
        limit: Largest number of pictures of the dataset that are looked at.
        progress: Called with thousandths of the work.

    Returns:
        The record.
    """
    models = {subject.name: subject for subject in subjects}
    step = dict(zip(COSTS, parts(progress, list(COSTS.values())), strict=True))
    predictions: Predictions | Missing = Missing(NO_DATASET)
    if dataset is not None:
        quantized = {name: subject.model for name, subject in models.items()}
        predictions = predict(clip, quantized, dataset, limit, step["predict"])
    is_missing = isinstance(predictions, Missing)
    measured = predictions if isinstance(predictions, Missing) else accuracy(predictions)
    images = {name: subject.images for name, subject in models.items() if subject.images is not None}
    steps = parts(step["layers"], [1.0] * len(models))
    made = {
        name: _part(subject, clip, dataset, measured, own)
        for (name, subject), own in zip(models.items(), steps, strict=True)
    }
    return ReportData(
        model=clip.name,
        parts=made,
        rows=subjects[0].rows if len(subjects) == 1 else (),
        accuracy=measured,
        examples=predictions if isinstance(predictions, Missing) else examples(predictions),
        predictions=predictions,
        diagnosis=_diagnosis(clip, subjects[0], step["doctor"]),
        sets=_sets(clip, images, None if is_missing else dataset, step["sets"]),
        images=images,
    )


def _has_narrow_table(subject: Subject) -> bool:
    """Whether the token table is quantized."""
    return "text.token_embedding" in weighted_layers(subject.model)


def _part(
    subject: Subject, clip: CLIP, dataset: AnyDataset | None, measured: Accuracy | Missing, progress: Progress
) -> Part:
    metrics = run_metrics(subject)
    if metrics is None and not isinstance(measured, Missing):
        metrics = measured.reference, measured.towers[subject.name]["both"]
    speed = _speed(clip, subject.export)
    return Part(
        name=subject.name,
        headline=headline(subject, float_size(clip, not _has_narrow_table(subject)), metrics, speed),
        layers=_layers(subject, clip, dataset, progress),
        speed=speed,
        seconds=subject.seconds,
        repeat=how_to_repeat(subject),
    )


def _speed(clip: CLIP, export: Path | None) -> Speed | Missing:
    """Latency beside an export, if there is one that this version can execute."""
    if export is None:
        return Missing(NO_EXPORT)
    try:
        return measure_speed(clip, export)
    except D4CError as error:
        return Missing(f"Speed was not measured: {error}")


@torch.no_grad()
def _layers(subject: Subject, clip: CLIP, dataset: AnyDataset | None, progress: Progress) -> Layers | Missing:
    if subject.images is None:
        return Missing(NO_IMAGES)
    form = float_form(clip, subject.model, subject.images)
    left_out = tuple(
        f"The layers of the {tower} tower are left out: its float form could not be made again from the calibration "
        "data, as with prompts of your own, a target of mean bits or another version of PyTorch."
        for tower in subject.recipe["towers"]
        if tower not in form.towers
    )
    samples = {tower: _evenly(form.samples[tower], LAYER_SAMPLES) for tower in form.towers}
    if "image" in samples:
        samples["image"] = _as_pictures(clip, samples["image"])
    errors = layer_errors(form.clip, subject.model, samples, _others(form, clip, dataset), progress)
    pixels = samples.get("image")
    ranges = () if pixels is None else activation_ranges(clip, form.clip, subject.model, pixels[:RANGE_IMAGES])
    return Layers(errors, remedies(errors), ranges, left_out)


def _others(form: FloatForm, clip: CLIP, dataset: AnyDataset | None) -> dict[str, torch.Tensor]:
    """Samples that nothing was calibrated on: pictures and class prompts of the dataset."""
    if dataset is None:
        return {}
    few = dataset.subset(LAYER_SAMPLES)
    others = {}
    if "image" in form.towers:
        pictures = []
        for i in range(len(few)):
            try:
                pictures.append(clip.preprocess(few.image(i)))
            except D4CError:  # what does not decode is left out, as in an evaluation
                continue
        if pictures:
            others["image"] = torch.stack(pictures).to(clip.device)
    if "text" in form.towers:
        others["text"] = clip.tokenize(_prompts(few)).to(clip.device)
    return others


def _prompts(dataset: AnyDataset) -> list[str]:
    """Some captions of a dataset, or some of its classes in its templates."""
    if isinstance(dataset, CaptionedDataset):
        return [captions[0] for captions in dataset.captions]
    count = min(LAYER_SAMPLES, len(dataset.classes))
    names = [dataset.classes[k * len(dataset.classes) // count] for k in range(count)]
    templates = dataset.templates
    return [fill_template(templates[i % len(templates)], name.lower()) for i, name in enumerate(names)]


def _as_pictures(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels within black and white: synthetic images go beyond, where the first layer clamps them."""
    black, white = (clip.normalize(torch.full((1, 3, 1, 1), level, device=pixels.device)) for level in (0.0, 1.0))
    return pixels.clamp(black, white)


def _evenly(rows: torch.Tensor, count: int) -> torch.Tensor:
    return rows[[k * len(rows) // count for k in range(count)]] if len(rows) > count else rows


def _diagnosis(clip: CLIP, subject: Subject, progress: Progress) -> Diagnosis | Missing:
    if subject.recipe["track"] != "deployable":
        return Missing("What d4c doctor says is about the track deployable, and this model is of track paper.")
    recipe = subject.recipe
    wide_class_token = recipe.get("wide_class_token", False)
    return examine(clip, recipe["scheme"], wide_class_token=wide_class_token, progress=progress)


def _sets(
    clip: CLIP, images: Mapping[str, CalibrationSet], dataset: AnyDataset | None, progress: Progress
) -> Inspection | Missing:
    """Sets with the method of a control are not inspected: the same images are drawn as the control."""
    shown: dict[str, CalibrationSet] = {}
    for own in images.values():
        name = str(own.provenance.get("method", "given images"))
        if can_inspect(own):
            shown.setdefault(f"{name} as calibrated" if name in ("noise", "leaves", "real") else name, own)
    if not shown:
        return Missing(NO_IMAGES if not images else "There are too few calibration images to describe, fewer than 4.")
    return image_sets(clip, shown, dataset, progress)


def _plain(value: Any) -> Any:
    """A record as JSON-ready data."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
