"""Reads how Hugging Face's processors prepare pictures; each setting is honored, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d4c.errors import CheckpointError
from d4c.models.config import OPENAI_MEAN, OPENAI_STD

BICUBIC = 3
DEFAULT_FACTOR = 1 / 255
NO_FILE = "the defaults of CLIPImageProcessor"

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


def pixel_statistics(settings: Mapping[str, Any], image_size: Any, source: str) -> dict[str, Any]:
    """Return the mean and the standard deviation for pixels in [0, 1] that do what a processor does.

    With the factor f, (f v - mean) / std for v in 0 to 255 is (v / 255 - mean / 255 f) / (std / 255 f).

    Args:
        settings: The settings of the processor; absent ones have the values of `CLIPImageProcessor`.
        image_size: Side of the square that the model reads.
        source: Names the file of the settings in error messages.

    Returns:
        "image_mean" and "image_std", three numbers each.

    Raises:
        CheckpointError: A setting is not supported; the message names it.
    """
    refuse_others(settings, image_size, source)
    mean, std = settings.get("image_mean") or OPENAI_MEAN, settings.get("image_std") or OPENAI_STD
    if settings.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = settings.get("rescale_factor", DEFAULT_FACTOR) if settings.get("do_rescale") is not False else 1.0
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 1e-6 < factor < 1e6:
        raise CheckpointError(
            f"{source} has rescale_factor = {factor!r}, expected a positive number such as 1/255; correct the file."
        )
    if abs(factor / DEFAULT_FACTOR - 1) < 1e-6:
        return {"image_mean": mean, "image_std": std}
    scale = factor * 255
    return {"image_mean": scaled(mean, scale, source), "image_std": scaled(std, scale, source)}


def scaled(numbers: Any, scale: float, source: str) -> list[float]:
    """Divide numbers by a scale."""
    if not isinstance(numbers, list | tuple) or not all(isinstance(number, int | float) for number in numbers):
        raise CheckpointError(
            f"{source}: pixel mean or standard deviation is {numbers!r}, expected three numbers; correct the file."
        )
    return [number / scale for number in numbers]


def refuse_others(settings: Mapping[str, Any], image_size: Any, source: str) -> None:
    """Raise CheckpointError for settings that prepare pictures in another way than CLIP."""

    def refuse(key: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{source} has {key} = {settings[key]!r}, expected {expected}; "
            "use a CLIP that was trained with CLIP's preprocessing, or correct the file."
        )

    for key in ("image_processor_type", "feature_extractor_type"):
        if settings.get(key) and settings[key] not in _CLIP_PROCESSORS:
            raise refuse(key, "'CLIPImageProcessor'")
    for key in ("do_resize", "do_center_crop"):
        if settings.get(key) is False:
            raise refuse(key, "true")
    side = {"shortest_edge": image_size}
    if settings.get("size") not in (None, image_size, side):
        raise refuse("size", f"{side}, a resize of the shorter side to what the model reads")
    if settings.get("crop_size") not in (None, image_size, {"height": image_size, "width": image_size}):
        raise refuse("crop_size", f"{image_size}, which the model reads")
    if settings.get("resample", BICUBIC) not in (BICUBIC, "bicubic"):
        raise refuse("resample", f"{BICUBIC} (bicubic)")
    for key, value in settings.items():
        if value and key not in _READ | _IRRELEVANT:
            raise CheckpointError(
                f"{source} has {key} = {value!r}, a step of preprocessing that is not supported; "
                "use a CLIP with CLIP's preprocessing, or correct the file."
            )
