"""Finds what configuration files, metadata and settings beside weights say of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.formats.beside.image_processor import read_pixels, read_processor
from d4c.models.formats.huggingface import huggingface_config, section
from d4c.models.formats.openclip import openclip_config
from d4c.models.formats.siglip.siglip_configs import siglip_config
from d4c.models.formats.weights import read_json_object
from d4c.models.tower_config import Activation

FLAGS = ("quick_gelu", "force_quick_gelu")
"""Settings of open_clip's training that tell the activation."""


def folder_config(data: Mapping[str, Any], folder: Path, source: str) -> CLIPConfig:
    """Translate a Hugging Face configuration with the image processor of its folder."""
    if "quantization_config" in data:
        raise CheckpointError(f"{source} holds a quantized model, expected a float one; use d4c.load_quantized.")
    settings, file = read_processor(folder, read_json_object)
    image_size = section(data, "vision", source).get("image_size", 224)
    siglip = data.get("model_type") == "siglip"
    pixels = read_pixels(settings, image_size, f"{source} ({file})", siglip)
    return siglip_config(data, pixels, source) if siglip else huggingface_config(data, pixels, source)


def openclip_folder_config(data: Mapping[str, Any], source: str) -> CLIPConfig:
    """Translate the content of open_clip_config.json."""
    model, pixels = data.get("model_cfg"), data.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(pixels, dict):
        raise CheckpointError(f"{source} has no 'model_cfg'; use a folder that open_clip saved.")
    return openclip_config(model, pixels, source)


def likely_configs(path: Path, notes: Iterable[Mapping[Any, Any]]) -> Iterator[CLIPConfig]:
    """Yield the configurations that may be those of a weights file, the most likely first.

    Args:
        path: The file; NAME.json beside it, open_clip_config.json and config.json may describe it.
        notes: Dictionaries of any content in the file itself.
    """
    for note in notes:
        yield from _translated(note, path.parent)
    for file in (path.with_suffix(".json"), path.parent / "open_clip_config.json", path.parent / "config.json"):
        if file.is_file():
            try:
                data = read_json_object(file)
            except CheckpointError:
                continue
            yield from _translated(data, path.parent)


def told_activation(notes: Iterable[Mapping[Any, Any]]) -> Activation | None:
    """Return the activation that settings of a training loop name; None if none does."""
    for note in notes:
        if any(note.get(flag) is True for flag in FLAGS):
            return "quick_gelu"
        if note.get("quick_gelu") is False and not note.get("force_quick_gelu"):
            return "gelu"
    return None


def _translated(data: Mapping[Any, Any], folder: Path) -> Iterator[CLIPConfig]:
    """Yield the configuration in a dictionary, if it is one of a supported CLIP."""
    try:
        if isinstance(data.get("model_cfg"), dict):
            yield openclip_folder_config(data, "")
        elif "vision_cfg" in data:
            yield openclip_config(data, {}, "")
        elif "vision_config" in data:
            yield folder_config(data, folder, "")
    except CheckpointError:
        return
