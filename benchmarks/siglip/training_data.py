"""Pictures and captions that the small SigLIP is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.common.problems import decoded
from benchmarks.siglip.captions import DRAWING, PAD, PHOTO, clean
from d4c.evaluation.load_dataset import load_dataset
from d4c.templates import PHOTO_TEMPLATES, fill_template

SIZE, POSITIONS = 64, 32
HELD_OUT = 20
"""One of so many photographs is not trained on."""


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 [N, S, S, 3 or 4] and the number of each one's class."""

    pixels: Tensor
    classes: Tensor

    def to(self, device: str) -> Pictures:
        return Pictures(self.pixels.to(device), self.classes.to(device))


@dataclass(frozen=True)
class Words:
    """Token ids of concepts under templates and under photographs' evaluation templates, and what is true of a class.

    Attributes:
        tokens: [concepts, templates, L].
        weights: How often a concept is a class's own caption [classes, concepts].
        photo_names: Token ids of the names of the photographs' classes [classes, templates, L].
    """

    tokens: Tensor
    weights: Tensor
    photo_names: Tensor

    @property
    def truth(self) -> Tensor:
        return (self.weights > 0).float()


def read_photos(data: Path, name: str, first_class: int) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """Photographs to train on, those held out, and the names of their classes."""
    dataset = load_dataset(f"parquet:{data / name}-train.parquet")
    pixels = decoded(dataset, SIZE).permute(0, 2, 3, 1).contiguous()
    classes = torch.as_tensor(dataset.labels) + first_class
    out = held_out(classes)
    return Pictures(pixels[~out], classes[~out]), Pictures(pixels[out], classes[out]), tuple(dataset.classes)


def held_out(classes: Tensor) -> Tensor:
    """Which pictures are not trained on [N]: one of `HELD_OUT` of each class, in whatever order the classes come."""
    out = torch.zeros(len(classes), dtype=torch.bool)
    for number in classes.unique():
        out[(classes == number).nonzero()[::HELD_OUT, 0]] = True
    return out


def read_emoji(folder: Path, classes: dict[str, int]) -> Pictures:
    def opened(blob: bytes) -> Any:
        return np.asarray(Image.open(BytesIO(blob)).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS))

    rows = [row for file in sorted(folder.glob("train_*.parquet")) for row in pq.read_table(file).to_pylist()]
    pixels = torch.from_numpy(np.stack([opened(row["image"]) for row in rows]))
    return Pictures(pixels, torch.tensor([classes[row["hexcode"]] for row in rows]))


def read_words(data: Path, captions: dict[str, Any], names: tuple[str, ...]) -> Words:
    whole = Tokenizer.from_file(str(data / "tokenizer.json"))
    whole.enable_padding(pad_id=whole.token_to_id(PAD), pad_token=PAD, length=POSITIONS)
    whole.enable_truncation(POSITIONS)

    def ids(phrases: list[str], templates: tuple[str, ...]) -> Tensor:
        rows = whole.encode_batch([fill_template(t, phrase) for phrase in phrases for t in templates])
        return torch.tensor([row.ids for row in rows]).view(len(phrases), len(templates), POSITIONS)

    numbers = {concept: i for i, concept in enumerate(captions["concepts"])}
    classes = [*captions["photos"]["tiny-imagenet"], *captions["photos"]["cifar10"], *captions["emoji"].values()]
    weights = torch.zeros(len(classes), len(numbers))
    for row, concepts in zip(weights, classes, strict=True):
        for concept, weight in concepts.items():
            row[numbers[concept]] = weight
    return Words(ids(captions["concepts"], (*PHOTO, *DRAWING)), weights, ids(list(map(clean, names)), PHOTO_TEMPLATES))
