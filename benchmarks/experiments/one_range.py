"""Accuracy of sets of images in the published places at W4A4, and with one range of another set.

    python -m benchmarks.experiments.one_range --model models/bench-vit.safetensors \\
      --data parquet:data/cifar10-test.parquet --out one_range.jsonl

The range is that behind the first QuickGELU. Only the image tower is quantized, and weights are rounded to the nearest.
A CPU takes about ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import d4c
from benchmarks.common.arguments import argument_parser
from benchmarks.common.records import setup
from benchmarks.common.rows import append_row
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.quantized import QuantizedCLIP

RANGE = "image.blocks.0.mlp.fc2.input_quantizer"
SETS = (("leaves", 0), ("pink", 0), ("pink", 1), ("noise", 0))
"""Methods and seeds."""
SWAPS = ((0, 1), (1, 2), (2, 1), (3, 0))
"""Of which set a model is, and of which one the range."""
PROMPT = "a photo of a {}."


def quantizer(clip: QuantizedCLIP) -> ActivationQuantizer:
    """The quantizer of the range."""
    module = clip.get_submodule(RANGE)
    assert isinstance(module, ActivationQuantizer)
    return module


@contextmanager
def with_range(clip: QuantizedCLIP, scale: Tensor, zero_point: Tensor) -> Iterator[QuantizedCLIP]:
    """Give a model another range for a while."""
    own = quantizer(clip)
    before = own.scale.clone(), own.zero_point.clone()
    with torch.no_grad():
        own.scale.copy_(scale)
        own.zero_point.copy_(zero_point)
        yield clip
        own.scale.copy_(before[0])
        own.zero_point.copy_(before[1])


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="dataset with classes")
    parser.add_argument("--count", type=int, default=600, help="pictures of it")
    parser.add_argument("--images", type=int, default=128, help="images of each set")
    parser.add_argument("--out", type=Path, required=True, help="file of rows")
    args = parser.parse_args()
    clip = d4c.load(args.model)
    dataset = load_dataset(args.data).subset(args.count)
    pixels = torch.stack([clip.preprocess(dataset.image(i)) for i in range(len(dataset))])
    labels = torch.tensor(dataset.labels)

    @torch.inference_mode()
    def top1(model: CLIP | QuantizedCLIP) -> float:
        texts = F.normalize(clip.encode_text(clip.tokenize([PROMPT.format(name) for name in dataset.classes])), dim=1)
        found = torch.cat([(model.encode_image(part) @ texts.T).argmax(1) for part in pixels.split(50)])
        return round(100 * (found == labels).float().mean().item(), 1)

    def measure(name: str, model: CLIP | QuantizedCLIP, of: str) -> None:
        row = {"ranges": name, "one_of": of, "top1": top1(model), "count": len(dataset)}
        if isinstance(model, QuantizedCLIP):
            own = quantizer(model)
            row |= {"step": round(own.scale.item(), 3), "zero_point": int(own.zero_point.item())}
        append_row(args.out, row | {"setup": conditions})
        print(row, flush=True)

    conditions = setup("cpu")
    measure("float", clip, "")
    models = []
    for method, seed in SETS:
        images = d4c.synthesize(clip, method, images=args.images, seed=seed, progress=None)
        settings: dict[str, Any] = {"track": "paper", "reconstruction": "none", "towers": ("image",), "seed": seed}
        models.append(d4c.quantize(clip, images, "W4A4", progress=None, **settings))
    names = [f"{method}, seed {seed}" for method, seed in SETS]
    for name, model in zip(names, models, strict=True):
        measure(name, model, "")
    for own, other in SWAPS:
        range_ = quantizer(models[other])
        with with_range(models[own], range_.scale, range_.zero_point) as changed:
            measure(names[own], changed, names[other])
    fine = quantizer(models[1])
    coarse = quantizer(models[0])
    for name, scale, zero_point in (
        ("step alone", fine.scale, coarse.zero_point),
        ("zero point alone", coarse.scale, fine.zero_point),
    ):
        with with_range(models[0], scale, zero_point) as changed:
            measure(names[0], changed, f"{names[1]}, {name}")


if __name__ == "__main__":
    main()
