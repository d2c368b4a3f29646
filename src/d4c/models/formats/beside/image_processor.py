"""Reads how Hugging Face's processors prepare pictures; each setting is honored, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4c.errors import CheckpointError
from d4c.models.config import OPENAI_MEAN, OPENAI_STD, Interpolation, Resize
from d4c.reading.ranges import PIXEL_MEAN, PIXEL_STD
from d4c.reading.schema import Kind, check

FILTERS: dict[Any, Interpolation] = {3: "bicubic", "bicubic": "bicubic", 2: "bilinear", "bilinear": "bilinear"}
"""Interpolations by Pillow's numbers and by name."""
DEFAULT_FACTOR = 1 / 255
NO_FILE = "the defaults of its image processor"

_READ = {
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
}
# Settings that change no pixel: colors are always converted, and where and in what form is the caller's choice.
_IRRELEVANT = {
    "do_convert_rgb",
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_processor_class",
    "auto_map",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "default_to_square",
    "image_seq_length",
    "_valid_processor_keys",
}
_CLIP_PROCESSORS = {
    f"CLIP{kind}" for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
}


_SIGLIP_PROCESSORS = {f"Siglip{kind}" for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil")}
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Pixels:
    """How pictures become pixels; the fields are those of `CLIPConfig`."""

    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    resize: Resize = "crop"
    interpolation: Interpolation = "bicubic"

    def fields(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dict(vars(self))


def triple(value: Any, kind: Kind, default: tuple[float, float, float], source: str) -> tuple[float, float, float]:
    """Read three numbers of a kind, one per color."""
    if value is None:
        return default
    check(value, kind, f"{source}: pixel mean or standard deviation", CheckpointError, "correct the file")
    return (float(value[0]), float(value[1]), float(value[2]))


def read_processor(folder: Path, read: Any) -> tuple[dict[str, Any], str]:
    """Return the settings of a folder's image processor and the name of their file.

    As in `transformers`, the `image_processor` of processor_config.json (of version 5) has precedence over
    preprocessor_config.json.

    Args:
        folder: The folder of the model.
        read: Reads a JSON object from a file.

    Returns:
        The settings, empty if the folder has none, and what messages call their file.

    Raises:
        CheckpointError: A file cannot be read.
    """
    joint, alone = folder / "processor_config.json", folder / "preprocessor_config.json"
    if joint.is_file():
        settings = read(joint).get("image_processor")
        if isinstance(settings, dict):
            return settings, joint.name
    return (read(alone), alone.name) if alone.is_file() else ({}, NO_FILE)


def read_pixels(settings: Mapping[str, Any], image_size: Any, source: str, siglip: bool = False) -> Pixels:
    """Return what does the same as a processor, with the mean and the standard deviation for pixels in [0, 1].

    With the factor f, (f v - mean) / std for v in 0 to 255 is (v / 255 - mean / 255 f) / (std / 255 f).

    Args:
        settings: The settings of the processor; absent ones have the values of `CLIPImageProcessor`, or of
            `SiglipImageProcessor`.
        image_size: Side of the square that the model reads.
        source: Names the file of the settings in error messages.
        siglip: Whether the model is a SigLIP.

    Raises:
        CheckpointError: A setting is not supported; the message names it.
    """
    named = {settings.get(key) for key in ("image_processor_type", "feature_extractor_type")} - {None}
    siglip = bool(named & _SIGLIP_PROCESSORS) or (siglip and not named)
    resize = read_resize(settings, image_size, siglip, source)
    default = (HALF, HALF) if siglip else (OPENAI_MEAN, OPENAI_STD)
    mean, std = settings.get("image_mean") or default[0], settings.get("image_std") or default[1]
    if settings.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = settings.get("rescale_factor", DEFAULT_FACTOR) if settings.get("do_rescale") is not False else 1.0
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 1e-6 < factor < 1e6:
        raise CheckpointError(
            f"{source} has rescale_factor = {factor!r}, expected a positive number such as 1/255; correct the file."
        )
    if abs(factor / DEFAULT_FACTOR - 1) >= 1e-6:
        mean, std = scaled(mean, factor * 255, source), scaled(std, factor * 255, source)
    return Pixels(
        triple(mean, PIXEL_MEAN, OPENAI_MEAN, source),
        triple(std, PIXEL_STD, OPENAI_STD, source),
        resize,
        FILTERS[settings.get("resample", 3)],
    )


def scaled(numbers: Any, scale: float, source: str) -> list[float]:
    """Divide numbers by a scale."""
    if not isinstance(numbers, list | tuple) or not all(isinstance(number, int | float) for number in numbers):
        raise CheckpointError(
            f"{source}: pixel mean or standard deviation is {numbers!r}, expected three numbers; correct the file."
        )
    return [number / scale for number in numbers]


def read_resize(settings: Mapping[str, Any], image_size: Any, siglip: bool, source: str) -> Resize:
    """Return how a processor makes pictures square; raises CheckpointError for settings that are not supported."""

    def refuse(key: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{source} has {key} = {settings[key]!r}, expected {expected}; "
            "use a CLIP that was trained with CLIP's preprocessing, or correct the file."
        )

    for key in ("image_processor_type", "feature_extractor_type"):
        if settings.get(key) and settings[key] not in _CLIP_PROCESSORS | _SIGLIP_PROCESSORS:
            raise refuse(key, "'CLIPImageProcessor' or 'SiglipImageProcessor'")
    if settings.get("do_resize") is False:
        raise refuse("do_resize", "true")
    square, side = {"height": image_size, "width": image_size}, {"shortest_edge": image_size}
    size = settings.get("size") or (square if siglip else side)
    if size not in (image_size, side, square):
        raise refuse("size", f"{side}, a resize of the shorter side to what the model reads, or {square}")
    squash = size == square or (siglip and size == image_size)
    if settings.get("do_center_crop") is False and not squash:
        raise refuse("do_center_crop", "true")
    if settings.get("crop_size") not in (None, image_size, square):
        raise refuse("crop_size", f"{image_size}, which the model reads")
    if settings.get("resample", 3) not in FILTERS:
        raise refuse("resample", "3 (bicubic) or 2 (bilinear)")
    for key, value in settings.items():
        if value and key not in _READ | _IRRELEVANT:
            raise CheckpointError(
                f"{source} has {key} = {value!r}, a step of preprocessing that is not supported; "
                "use a CLIP with CLIP's preprocessing, or correct the file."
            )
    return "squash" if squash else "crop"
