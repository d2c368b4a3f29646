"""Writes the files from which d4c and other libraries know how to read prompts and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d4c.models.config import CLIPConfig, Interpolation, Resize
from d4c.models.inputs.prompt_tokenizers import PromptTokenizer
from d4c.models.inputs.tokenizer_files import FILES as TOKENIZER_FILES
from d4c.reading.ranges import PIXEL_MEAN, PIXEL_STD
from d4c.reading.schema import OneOf, Record
from d4c.storage.files import write_json

FILTERS: dict[Interpolation, int] = {"bicubic": 3, "bilinear": 2}
"""Interpolations by Pillow's numbers, as in the files of transformers."""
PROCESSOR = "preprocessor_config.json"
FILES = (*TOKENIZER_FILES, PROCESSOR)
PROCESSOR_KIND = Record(
    {
        "image_processor_type": OneOf(("CLIPImageProcessor", "SiglipImageProcessor")),
        "resample": OneOf(tuple(FILTERS.values())),
        "image_mean": PIXEL_MEAN,
        "image_std": PIXEL_STD,
    }
)
"""What d4c reads of the file that it wrote."""


def files_of(config: CLIPConfig) -> tuple[str, ...]:
    """Return those of `FILES` that the towers of a model read."""
    tokenizer = TOKENIZER_FILES if "text" in config.towers else ()
    return (*tokenizer, PROCESSOR) if "image" in config.towers else tokenizer


def save_reader_files(folder: Path, config: CLIPConfig, tokenizer: PromptTokenizer | None) -> None:
    """Write `files_of` a model with this architecture and tokenizer into a folder."""
    if "image" in config.towers:
        write_json(folder / PROCESSOR, processor_config(config))
    if tokenizer is not None:
        tokenizer.save(folder)


def processor_config(config: CLIPConfig) -> dict[str, Any]:
    """Return the content of preprocessor_config.json, for CLIP's processor, which crops, or SigLIP's."""
    side = config.image.image_size
    square = {"height": side, "width": side}
    if config.resize == "crop":
        kind: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}}
        kind |= {"do_center_crop": True, "crop_size": square}
    else:
        kind = {"image_processor_type": "SiglipImageProcessor", "size": square}
    return {
        **kind,
        "do_resize": True,
        "resample": FILTERS[config.interpolation],
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def read_resize(data: dict[str, Any]) -> tuple[Resize, Interpolation]:
    """Return how pictures are resized by the content of a file that has been checked to be of `PROCESSOR_KIND`."""
    resize: Resize = "crop" if data["image_processor_type"] == "CLIPImageProcessor" else "squash"
    return resize, next(name for name, number in FILTERS.items() if number == data["resample"])
