"""The picture of docs/text_tower.md: the largest |activation| by position and layer, before and after.

    python -m benchmarks.text_tower.picture

The model is demo-vit with spikes (`spiked`). Before: the float tower at all 77 positions. After: the inputs of our
quantizers at W8A8.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

import d4c
from benchmarks.common.arguments import argument_parser
from benchmarks.text_tower.placements import quantize_text_at
from benchmarks.text_tower.spiked import outputs_of, spiked
from d4c.calibration.prompts import generic_prompts
from d4c.models.clip import CLIP

FILE = Path(__file__).parents[2] / "docs" / "images" / "text-tower-peaks.png"
PROMPTS = 256
INPUTS = {"attn.q": ("norm1", "into q, k, v"), "mlp.fc1": ("norm2", "into MLP"), "mlp.fc2": ("mlp.act", "in MLP")}
"""What reads each quantized input of a block, what writes it, and what the picture calls it."""
LOW, HIGH = 0.5, 64.0


def rows(clip: CLIP) -> Iterator[tuple[str, str, str]]:
    """Reader, writer and label of each row, from the first block to the last norm."""
    for i in range(len(clip.text.blocks)):
        for reader, (writer, label) in INPUTS.items():
            yield f"blocks.{i}.{reader}", f"blocks.{i}.{writer}", f"block {i}: {label}"
    yield "projection", "norm_final", "last LayerNorm"


@torch.no_grad()
def before(clip: CLIP, tokens: Tensor) -> Tensor:
    """Peaks of the float tower [rows, 77]."""
    text = copy.deepcopy(clip.text)
    text.trim = False
    modules = [text.get_submodule(writer) for _, writer, _ in rows(clip)]
    outputs = outputs_of(text, tokens, modules, first=0)
    return torch.stack([rows.view(*tokens.shape, -1).abs().amax((0, 2)) for rows in outputs])


@torch.no_grad()
def after(clip: CLIP, tokens: Tensor) -> Tensor:
    """Peaks of what the quantizers of a quantized tower read [rows, 77]; not a number where they read nothing."""
    text, names = clip.text, [reader for reader, _, _ in rows(clip)]
    peaks = torch.full((len(names), tokens.shape[1]), torch.nan)

    def record(row: int, x: Tensor) -> None:
        # The tower leaves out begin-of-text, and its projection reads end-of-text alone.
        start = 1 if x.ndim == 3 else end
        peak = x.abs().amax((0, 2)) if x.ndim == 3 else x.abs().amax()[None]
        part = peaks[row, start : start + len(peak)]
        part.copy_(torch.fmax(part, peak))

    def hook(row: int) -> torch.utils.hooks.RemovableHandle:
        return text.get_submodule(names[row]).register_forward_pre_hook(lambda _module, inputs: record(row, inputs[0]))

    for row in range(len(names)):
        hook(row)
    for part in text.batches(tokens, PROMPTS):
        end = int(text.pooled_position(part)[0])
        text(part)
    return peaks


def draw(parts: dict[str, Tensor], labels: list[str]) -> Figure:
    """Two maps for each part, begin-of-text apart; on white, so that they read the same on light and dark pages."""
    with matplotlib.rc_context({"font.size": 11, "axes.titlesize": 11, "savefig.dpi": 150}):
        figure = Figure((5.4, 6.2), layout="constrained")
        maps = figure.subplots(len(parts), 2, sharex="col", sharey=True, width_ratios=[1, 14])
        for (begin, others), (title, peaks) in zip(maps, parts.items(), strict=True):
            for axes, columns, extent in ((begin, peaks[:, :1], (-0.5, 0.5)), (others, peaks[:, 1:], (0.5, 76.5))):
                axes.set_facecolor("#E4E4E4")
                image = axes.imshow(
                    columns,
                    aspect="auto",
                    cmap="magma_r",
                    norm=LogNorm(LOW, HIGH),
                    interpolation="nearest",
                    extent=(*extent, len(labels) - 0.5, -0.5),
                )
            begin.set_yticks(range(len(labels)), labels)
            begin.set_xticks([0])
            others.tick_params(left=False)
            others.set_title(title, loc="left")
        maps[-1, 1].set_xlabel("position (0: begin-of-text; gray: not read)")
        bar = figure.colorbar(image, ax=maps, location="bottom", aspect=40, pad=0.02)
        bar.set_ticks([0.5, 1, 2, 4, 8, 16, 32, 64], labels=["0.5", "1", "2", "4", "8", "16", "32", "64"])
        bar.set_label("largest |activation|")
    return figure


def main() -> None:
    argument_parser(__doc__).parse_args()
    clip = spiked(d4c.load("demo-vit"), seed=0)
    prompts = generic_prompts(PROMPTS, seed=1)
    tokens = clip.tokenize(prompts)
    quantized = quantize_text_at(clip, "ours", "W8A8", generic_prompts(512, seed=0))
    parts = {
        "before: all 77 positions": before(clip, tokens),
        "after: what our quantizers read": after(quantized, tokens),
    }
    draw(parts, [label for _, _, label in rows(clip)]).savefig(FILE)
    for title, peaks in parts.items():
        print(title, [round(float(peak.nan_to_num().max()), 1) for peak in peaks])


if __name__ == "__main__":
    main()
