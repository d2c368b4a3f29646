"""Writes the files from which other libraries know how to read prompts and pictures: a Hugging Face processor."""

from __future__ import annotations

from pathlib import Path

from d4c.models.config import CLIPConfig
from d4c.models.tokenizer_files import FILES as TOKENIZER_FILES
from d4c.models.tokenizer_files import save_tokenizer
from d4c.storage.files import write_json

PROCESSOR = "preprocessor_config.json"
FILES = (*TOKENIZER_FILES, PROCESSOR)


def save_reader_files(folder: Path, config: CLIPConfig) -> None:
    """Write `FILES` for the models of an architecture into a folder."""
    size = config.image.image_size
    write_json(
        folder / PROCESSOR,
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_convert_rgb": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(config.mean),
            "image_std": list(config.std),
        },
    )
    save_tokenizer(folder, config.text.context_length)
