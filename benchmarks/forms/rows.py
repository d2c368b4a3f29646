"""A range for each row of an activation, found while the model runs, beside one range for all: what it would be worth.

    python -m benchmarks.forms.rows --models DIR --data DIR --out FILE.jsonl

Ranges only, image tower alone. The linear layers of the blocks get, after quantization, inputs that are rounded in
another way: each row in the range of its own least error (`rows`), or the class token not at all (`class token exact`,
which bounds what constant or cached rows could bring). Nothing that d4c exports can do this; a GPU could.
`benchmarks.forms.rows_table` makes the table.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

import d4c
from benchmarks.common.arguments import add_grid, argument_parser
from benchmarks.common.each_tower import scores
from benchmarks.common.problems import PHOTOS, Bench
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row
from benchmarks.common.workers import run_cells
from d4c.models.clip import CLIP
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear

MODELS = ("bench-vit", "stress-vit")
SCHEMES = ("W4A4", "W6A6")
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of a row's own range that are tried."""


class RowQuantizer(nn.Module):
    """Rounds every row in the range of its least squared error; loud channels stay as they are."""

    def __init__(self, usual: ActivationQuantizer) -> None:
        super().__init__()
        self.usual = usual

    def forward(self, x: Tensor) -> Tensor:
        loud = self.usual.loud
        if loud is None:
            return self._rounded(x)
        quiet = self._rounded(x.index_select(-1, self.usual.quiet_channels))
        y = self.usual(x)
        return y.index_copy(-1, self.usual.quiet_channels, quiet)

    def _rounded(self, x: Tensor) -> Tensor:
        qmax = self.usual.args.qmax
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        best, least = x, torch.full_like(low, torch.inf)
        for share in SHARES:
            scale = (share * (high - low) / qmax).clamp(min=1e-12)
            zero_point = (-share * low / scale).round()
            y = ((x / scale).round() + zero_point).clamp(0, qmax).sub(zero_point) * scale
            error = (y - x).square().sum(-1, keepdim=True)
            best, least = torch.where(error < least, y, best), torch.minimum(error, least)
        return best


class ExactFirstRow(nn.Module):
    """Leaves the first token of each sample in float."""

    def __init__(self, usual: ActivationQuantizer) -> None:
        super().__init__()
        self.usual = usual

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], self.usual(x)[:, 1:]], dim=1)


VARIANTS: Mapping[str, tuple[type[nn.Module] | None, str]] = {
    "one range": (None, ""),
    "rows, hidden layers": (RowQuantizer, "mlp.fc2"),
    "rows, all layers": (RowQuantizer, ""),
    "class token exact, hidden layers": (ExactFirstRow, "mlp.fc2"),
    "class token exact, all layers": (ExactFirstRow, ""),
}


def replaced(clip: CLIP, kind: type[nn.Module] | None, ending: str) -> CLIP:
    """Give the linear layers of the image tower's blocks, by the end of their name, another rounding of inputs."""
    for name, layer in clip.image.named_modules():
        if kind and isinstance(layer, QuantizedLinear) and name.startswith("blocks.") and name.endswith(ending):
            layer.input_quantizer = cast(ActivationQuantizer, kind(layer.input_quantizer))
    return clip


def cells(args: argparse.Namespace) -> list[Row]:
    shared = {"preset": args.preset, "rows": args.rows, "reconstruction": "none", "method": args.method}
    axes = itertools.product(args.seeds, args.only, args.schemes, VARIANTS)
    return [shared | dict(zip(("seed", "model", "scheme", "variant"), v, strict=True)) for v in axes]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    clip, device = bench.clip(cell["model"]), bench.places.device
    calibration = bench.calibration(cell["model"], cell["method"], cell["seed"])
    with measured(device) as figures:
        quantized = d4c.quantize(
            clip,
            calibration,
            cell["scheme"],
            reconstruction="none",
            towers=("image",),
            wide_class_token=False,
            seed=cell["seed"],
        )
    variant = replaced(quantized, *VARIANTS[cell["variant"]])
    results = {data: scores(bench.problem(cell["model"], data), variant) for data in PHOTOS}
    record = setup(device) | {"command": command("forms.rows")}
    summary = " / ".join(f"{result['top1']['image']:.2f}" for result in results.values())
    return {**cell, "quantize": figures, "setup": record, "results": results, "summary": summary}


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, MODELS, SCHEMES, ("none",))
    parser.add_argument("--method", default="leaves", help="of the synthesis")
    run_cells(parser.parse_args(), cells, measure)


if __name__ == "__main__":
    main()
