"""What the defaults of quantization are worth beside their alternatives: the figures behind choices in the code.

    python -m benchmarks.choices.measure --out benchmarks/choices/results/choices.jsonl
    python -m benchmarks.choices.table benchmarks/choices/results/choices.jsonl

The image towers of the embedded models are calibrated on 32 dead leaves, which need no model, and compared with float
on 124 pictures of the emoji pack, as they are and enlarged from a quarter of their size: the mean cosine of the two
embeddings. Every cell is one line of the output; a second call resumes. A seed takes about 10 minutes on one core.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import d4c
from benchmarks.choices.rotation import hadamard_with_signs, random_rotation, rotating
from benchmarks.common.arguments import add_device, add_seeds, argument_parser, require_names, words
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, append_row, is_measured, read_rows
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.quantization import calibrate, placement, quantize
from d4c.quantization.ranges import observer
from d4c.quantization.rounding import gptq
from d4c.quantization.symmetries import canonical, heads

IMAGES = 32
PICTURES = 124
ENLARGED = 4
BOTH = ("demo-vit", "demo-rn")


@dataclass(frozen=True)
class Alternative:
    """Options of `d4c.quantize`, and names of a module with the values that they take meanwhile."""

    options: Mapping[str, Any] = field(default_factory=dict)
    module: ModuleType | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within the context the module has the values of this alternative."""
        usual = {name: getattr(self.module, name) for name in self.values}
        try:
            for name, value in self.values.items():
                setattr(self.module, name, value)
            yield
        finally:
            for name, value in usual.items():
                setattr(self.module, name, value)


@dataclass(frozen=True)
class Choice:
    """Alternatives by name, and the cells that they are measured in."""

    alternatives: Mapping[str, Alternative]
    models: tuple[str, ...] = BOTH
    schemes: tuple[str, ...] = ("W4A4",)
    reconstructions: tuple[str, ...] = ("gptq",)


CHOICES = {
    "strength": Choice(
        {
            "columns even": Alternative(module=canonical, values={"_strength": lambda *_: 0.0}),
            "shared": Alternative(module=canonical, values={"_strength": lambda *_: 0.5}),
            "ranges even": Alternative(module=canonical, values={"_strength": lambda *_: 1.0}),
            "by bits": Alternative(),
        },
        schemes=("W8A8", "W4A8", "W6A6", "W4A4"),
        reconstructions=("none", "gptq"),
    ),
    "basis": Choice(
        {
            "as it is": Alternative(module=canonical, values={"_balance_heads": lambda *_: None}),
            **{
                f"prior {weight:g}": Alternative(module=heads, values={"SHRINKAGE": weight})
                for weight in (0.3, 1.0, 10.0)
            },
        },
        schemes=("W8A8", "W4A4"),
        reconstructions=("none",),
    ),
    "softmax": Choice(
        {"one range": Alternative(module=placement, values={"ROWS_BELOW": 0}), "by row": Alternative()},
        schemes=("W6A6", "W4A4"),
        reconstructions=("none", "gptq"),
    ),
    "hidden": Choice(
        {
            "by input": Alternative(module=calibrate, values={"_output_readers": lambda *_: {}}),
            "by output": Alternative(),
        },
        models=BOTH[:1],
        schemes=("W6A6", "W4A4"),
        reconstructions=("none", "gptq"),
    ),
    "rotation": Choice(
        {
            "scales": Alternative(),
            "Hadamard": Alternative(module=quantize, values={"prepare": rotating(hadamard_with_signs)}),
            "random": Alternative(module=quantize, values={"prepare": rotating(random_rotation)}),
        },
        models=BOTH[:1],
        schemes=("W8A8", "W4A8", "W4A4"),
        reconstructions=("none", "gptq"),
    ),
    "damping": Choice(
        {str(share): Alternative(module=gptq, values={"DAMPING": share}) for share in (0.003, 0.01, 0.03, 0.1)}
    ),
    "points": Choice(
        {
            f"{size} + 2 x {tail}": Alternative(
                module=observer, values={"POINTS": {"tensor": (size, tail), "token": (size, tail)}}
            )
            for size, tail in ((1024, 128), (4096, 512), (16384, 2048))
        },
        reconstructions=("none",),
    ),
    "ranges": Choice(
        {rule: Alternative({"ranges": rule}) for rule in ("minmax", "percentile", "mse")},
        schemes=("W8A8", "W4A4"),
        reconstructions=("none",),
    ),
    "softening": Choice(
        {"sharp": Alternative({"soften": False}), "softened": Alternative({"soften": True})},
        schemes=("W4A8",),
    ),
}


class Pictures:
    """Pictures of the emoji pack as a model reads them, and their float embeddings."""

    def __init__(self, clip: CLIP) -> None:
        data = load_dataset("demo").subset(PICTURES)
        sharp = torch.cat(list(pixel_batches(data, clip.preprocess, PICTURES))).to(clip.device)
        small = F.interpolate(sharp, scale_factor=1 / ENLARGED, mode="bicubic", antialias=True)
        self.pixels = {"sharp": sharp, "enlarged": F.interpolate(small, size=clip.image_size, mode="bicubic")}
        self.embeddings = self._embed(clip)

    @torch.no_grad()
    def _embed(self, clip: CLIP) -> dict[str, Tensor]:
        return {name: clip.encode_image(pixels) for name, pixels in self.pixels.items()}

    def cosines(self, clip: CLIP) -> dict[str, float]:
        """Mean cosine between a model's embeddings and the float ones, by kind of picture."""
        embeddings = self._embed(clip)
        return {
            name: float(F.cosine_similarity(embeddings[name], exact, dim=-1).mean())
            for name, exact in self.embeddings.items()
        }


def cells(names: list[str], seeds: list[int]) -> Iterator[Row]:
    for seed, name in product(seeds, names):
        choice = CHOICES[name]
        for model, scheme, kind in product(choice.models, choice.schemes, choice.reconstructions):
            for alternative in choice.alternatives:
                yield {
                    "choice": name,
                    "model": model,
                    "scheme": scheme,
                    "reconstruction": kind,
                    "alternative": alternative,
                    "seed": seed,
                    "images": IMAGES,
                }


def measure(clip: CLIP, pictures: Pictures, cell: Row) -> Row:
    """One line: the cell, its cosines, and what they depend on."""
    alternative = CHOICES[cell["choice"]].alternatives[cell["alternative"]]
    images = d4c.synthesize(clip, "leaves", images=IMAGES, seed=cell["seed"])
    settings = {"reconstruction": cell["reconstruction"], "towers": ("image",), "seed": cell["seed"]}
    with alternative.in_force(), measured(str(clip.device)) as figures:
        quantized = d4c.quantize(clip, images, cell["scheme"], **settings, **alternative.options)
    record = setup(str(clip.device)) | {"command": command("choices.measure")}
    return {**cell, "cosine": pictures.cosines(quantized), "quantize": figures, "setup": record}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", type=words, default=list(CHOICES), help=f"of {', '.join(CHOICES)}")
    add_seeds(parser)
    add_device(parser)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    require_names(parser, "choice", args.only, CHOICES)
    torch.set_num_threads(1)
    clips = {name: d4c.load(name, device=args.device) for name in BOTH}
    pictures = {name: Pictures(clip) for name, clip in clips.items()}
    rows = read_rows(args.out)
    for cell in cells(args.only, args.seeds):
        if not is_measured(cell, rows):
            row = measure(clips[cell["model"]], pictures[cell["model"]], cell)
            append_row(args.out, row)
            print(cell, row["cosine"], flush=True)


if __name__ == "__main__":
    main()
