"""Draws what passes through a channel axis in several forms of one function, before and after d4c brings them into one.

python -m benchmarks.forms.picture --out docs/images/forms.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import d4c
from benchmarks.common.arguments import argument_parser
from d4c.models.clip import CLIP
from d4c.quantization.formats.scheme import W8A8
from d4c.quantization.placement import default_overrides, make_plan
from d4c.quantization.symmetries.batch_norm import fold_batchnorms
from d4c.quantization.symmetries.canonical import canonicalize
from d4c.quantization.symmetries.observed import observe
from d4c.quantization.symmetries.uneven import uneven

PLACES = {"demo-vit": "blocks.3.norm2", "demo-rn": "blocks.4.hidden2"}
"""An axis for each model: what a LayerNorm hands to the MLP, and what a convolution hands through a ReLU."""
FORMS = {"as trained": 0.0, "rewritten, sigma 1": 1.0}
CHANNELS = 64
COLORS = ("#4f6bd8", "#d8734f", "#3f9a6d")


@torch.no_grad()
def ranges(clip: CLIP, axis_name: str, pixels: Tensor) -> Tensor:
    """The lowest and highest value of the first channels of an axis [2, C], over the widest of them all."""
    (axis,) = (axis for axis in clip.image.channel_axes() if axis.name == axis_name)
    seen = observe(clip.image, pixels, [axis])[f"{axis.readers[0]}.input"]
    bounds = torch.stack([seen.low, seen.high])
    return bounds[:, :CHANNELS] / bounds.abs().max()


def forms_of(model: str) -> dict[str, Tensor]:
    """Ranges of an axis of the model by form; the last one is what d4c makes of each."""
    clip = d4c.load(model)
    pixels = d4c.synthesize(clip, "leaves", images=32, seed=0).pixels
    drawn = {}
    for title, sigma in FORMS.items():
        form = uneven(clip, sigma, seed=0)
        fold_batchnorms(form.image)
        drawn[title] = ranges(form, PLACES[model], pixels)
    # Either form ends in this one; a test says so.
    plan = make_plan(form, W8A8, "deployable", default_overrides(form, "deployable"))
    canonicalize(form.image, "image", pixels, plan)
    return drawn | {"either, as d4c quantizes it": ranges(form, PLACES[model], pixels)}


def draw(axes: Axes, bounds: Tensor, title: str, color: str) -> None:
    low, high = bounds.tolist()
    axes.bar(range(len(low)), [h - b for b, h in zip(low, high, strict=True)], bottom=low, color=color, width=0.8)
    axes.axhline(0, color="#888888", linewidth=0.6)
    axes.set_title(title, fontsize=11)
    axes.set_xlim(-1, len(low))
    axes.set_ylim(-1.05 if min(low) < 0 else 0, 1.05)
    axes.set_xticks([])
    axes.set_yticks([-1, 0, 1] if min(low) < 0 else [0, 1])


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    figure, grid = plt.subplots(
        len(PLACES), len(FORMS) + 1, figsize=(10, 4.2), layout="constrained", height_ratios=[2, 1]
    )
    for row, model in zip(grid, PLACES, strict=True):
        for axes, (title, bounds), color in zip(row, forms_of(model).items(), COLORS, strict=True):
            draw(axes, bounds, title, color)
        row[0].set_ylabel(f"{model}\n{PLACES[model]}", fontsize=10)
    figure.savefig(args.out, dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
