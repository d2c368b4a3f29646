"""The list of all targets."""

from __future__ import annotations

from pathlib import Path

import torch

import d4c
from benchmarks.fuzz.mutators import bytes_anywhere
from benchmarks.fuzz.targets.data_sets import data
from benchmarks.fuzz.targets.float_models import checkpoints
from benchmarks.fuzz.targets.jobs import runs, settings
from benchmarks.fuzz.targets.own_folders import artifacts, calibration_sets
from benchmarks.fuzz.targets.picture_files import picture_files, pictures
from benchmarks.fuzz.targets.target import ROUGH, Target
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.reading.json_file import parse_json


def tiny_clip() -> CLIP:
    """A vision transformer with random weights, small enough to be read a thousand times."""
    torch.manual_seed(0)
    text = TextConfig(16, 1, 2, 32, context_length=8, vocab_size=49408)
    return CLIP(CLIPConfig(8, ViTConfig(16, 8, 16, 1, 2, 32), text), "tiny").eval().requires_grad_(False)


def targets(folder: Path) -> list[Target]:
    """Every target, with its files in a folder."""
    clip = tiny_clip()
    return [
        Target("JSON", (b'{"a": [1, 2.5, "x", null]}',), (*ROUGH, bytes_anywhere), _parse, 4),
        *checkpoints(clip, folder),
        *calibration_sets(clip, folder),
        *artifacts(clip, folder),
        *runs(folder),
        *data(folder),
        *pictures(),
        *picture_files(folder),
        *settings(),
    ]


def _parse(data: bytes) -> None:
    parse_json(data, "a.json", d4c.errors.DataError, "give another")
