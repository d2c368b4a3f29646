"""Two remedies for massive activations that the literature names, beside loud channels: registers and split channels.

    python -m benchmarks.forms.outliers --models DIR --data DIR --rows 1000 --out FILE.jsonl

Image tower alone. `registers` and `splitting` beside this file say what is done and on what it rests. The scheme
"float" measures what registers do to the float model. Nothing of this can be exported.
`benchmarks.forms.outliers_table` makes the table.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.common.arguments import add_grid, argument_parser
from benchmarks.common.each_tower import mean_cosine
from benchmarks.common.problems import PHOTOS, Bench
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row
from benchmarks.common.workers import run_cells
from benchmarks.forms.registers import cache_registers, find_registers, with_registers
from benchmarks.forms.splitting import split
from d4c.calibration.images import CalibrationSet
from d4c.evaluation.score import score
from d4c.models.clip import CLIP
from d4c.quantization.calibrate import calibrate, prepare
from d4c.quantization.config import QuantizeConfig, TowerName
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.loud_channels import with_loud_channels
from d4c.quantization.placement import convert, default_overrides, loud_channels, make_plan
from d4c.quantization.preparation import calibration_inputs, working_copy
from d4c.quantization.rounding.reconstruction import reconstruct

MODELS = ("stress-vit", "bench-vit")
SCHEMES = ("float", "W4A4", "W6A6", "W8A8")
TOWER: tuple[TowerName, ...] = ("image",)
AFTER_NORMS = ("attn.q", "mlp.fc1")
"""Layers behind a LayerNorm, from which copies with offsets can come as they are."""


@dataclass(frozen=True)
class Variant:
    """What is done about outliers.

    Attributes:
        loud: Whether loud channels get a product at 8 bits, as d4c does it.
        split: Copies that are added to the inputs of a layer without loud channels, as a share of its channels.
        split_layers: How the names of these layers end.
        split_as_loud: Whether layers that would have loud channels get as many copies instead.
        registers: Copies of the register before the tokens of an image.
        deleted: Patches that are dropped from each image.
    """

    loud: bool = True
    split: float = 0.0
    split_layers: tuple[str, ...] = ("",)
    split_as_loud: bool = False
    registers: int = 0
    deleted: int = 0

    @property
    def changes_float(self) -> bool:
        return bool(self.registers or self.deleted)


VARIANTS: Mapping[str, Variant] = {
    "loud channels": Variant(),
    "none": Variant(loud=False),
    "as many copies": Variant(loud=False, split_as_loud=True),
    "1 % copies": Variant(loud=False, split=0.01),
    "loud channels, 1 % copies": Variant(split=0.01),
    "loud channels, 1 % copies after norms": Variant(split=0.01, split_layers=AFTER_NORMS),
    "loud channels, 5 % copies": Variant(split=0.05),
    "loud channels, register": Variant(registers=1),
    "loud channels, 4 patches deleted": Variant(deleted=4),
    "loud channels, register, 4 patches deleted": Variant(registers=1, deleted=4),
    "register, 4 patches deleted": Variant(loud=False, registers=1, deleted=4),
}


def cells(args: argparse.Namespace) -> list[Row]:
    shared = {"preset": args.preset, "rows": args.rows, "method": args.method}
    axes = itertools.product(args.seeds, args.only, args.schemes, args.reconstructions, args.variants)
    rows = [shared | dict(zip(("seed", "model", "scheme", "reconstruction", "variant"), v, strict=True)) for v in axes]
    return [row for row in rows if row["scheme"] != "float" or VARIANTS[row["variant"]].changes_float]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    device, variant = bench.places.device, VARIANTS[cell["variant"]]
    with measured(device) as figures:
        changed = changed_float(bench, cell, variant)
        columns: dict[str, dict[str, int]] = {}
        if cell["scheme"] != "float":
            changed, columns = quantized(prepared(bench, cell, variant, changed), variant)
    results: dict[str, dict[str, Any]] = {}
    for data in PHOTOS:
        problem = bench.problem(cell["model"], data)
        embeddings = replace(problem.reference, image=problem.images(changed))
        cosine = mean_cosine(embeddings.image, problem.reference.image)
        top1 = score(embeddings, problem.dataset).top1.value
        float_top1 = score(problem.reference, problem.dataset).top1.value
        results[data] = {"top1": {"image": top1}, "float_top1": float_top1, "image_cosine": cosine}
    record = setup(device) | {"command": command("forms.outliers")}
    summary = " / ".join(f"{r['top1']['image']:.2f} ({1000 * (1 - r['image_cosine']):.2f})" for r in results.values())
    return {**cell, "columns": columns, "quantize": figures, "setup": record, "results": results, "summary": summary}


def changed_float(bench: Bench, cell: Row, variant: Variant) -> CLIP:
    """The float model of a cell, with the registers of a variant."""
    clip, calibration = bench.clip(cell["model"]), bench.calibration(cell["model"], cell["method"], cell["seed"])
    if not variant.changes_float:
        return clip
    registers = find_registers(clip, calibration.pixels.to(clip.device))
    return with_registers(clip, registers, variant.registers, variant.deleted)


class Prepared:
    """A float CLIP in the form that is quantized, its plan, and copies of it with ranges.

    Args:
        clip: The float CLIP.
        calibration: What ranges are chosen on.
        config: The settings, resolved.
    """

    def __init__(self, clip: CLIP, calibration: CalibrationSet, config: QuantizeConfig) -> None:
        self.config, self.clip = config, working_copy(clip, "deployable")
        self.pixels, self.tokens = calibration_inputs(self.clip, calibration, ["a photo."], config.soften)
        overrides = default_overrides(self.clip, "deployable")
        scheme = Scheme.parse(config.scheme)
        plan = make_plan(self.clip, scheme, "deployable", overrides, TOWER, wide_class_token=False)
        prepare(self.clip, self.pixels, self.tokens, TOWER, plan)
        cache_registers(self.clip)
        self.plans = {False: plan, True: with_loud_channels(self.clip, plan, self.pixels, self.tokens, TOWER)}
        self.with_ranges: dict[bool, CLIP] = {}

    def ranged(self, loud: bool) -> CLIP:
        """A converted CLIP with ranges and weights rounded to nearest, with loud channels or without."""
        if loud not in self.with_ranges:
            changed = copy.deepcopy(self.clip)
            convert(changed, self.plans[loud], "deployable")
            calibrate(changed, self.pixels, self.tokens, TOWER, deployable=True)
            self.with_ranges[loud] = changed
        return copy.deepcopy(self.with_ranges[loud])

    def loud(self) -> dict[str, int]:
        """How many loud channels layers of the image tower have."""
        return {name.removeprefix("image."): len(named) for name, named in loud_channels(self.plans[True]).items()}


_prepared: dict[str, Prepared] = {}
"""What the last cell was quantized from, which the next one often shares."""


def prepared(bench: Bench, cell: Row, variant: Variant, clip: CLIP) -> Prepared:
    names = ("model", "method", "seed", "scheme", "reconstruction")
    key = str([cell[name] for name in names] + [variant.registers, variant.deleted])
    if key not in _prepared:
        _prepared.clear()
        config = QuantizeConfig(
            cell["scheme"], reconstruction=cell["reconstruction"], towers=TOWER, seed=cell["seed"]
        ).resolved()
        calibration = bench.calibration(cell["model"], cell["method"], cell["seed"])
        _prepared[key] = Prepared(clip, calibration, config)
    return _prepared[key]


def quantized(source: Prepared, variant: Variant) -> tuple[CLIP, dict[str, dict[str, int]]]:
    """Quantize an image tower as `d4c.quantize` does, but for what a variant changes.

    Returns:
        The quantized CLIP, and the columns that layers have got beside their own, by kind and name of the layer.
    """
    changed, loud, config = source.ranged(variant.loud), source.loud(), source.config
    extra = loud if variant.split_as_loud else copies(changed, loud if variant.loud else {}, variant)
    if extra:
        split(changed, source.clip, source.pixels, extra)
    if config.reconstruction == "gptq":
        reconstruct(changed, source.clip, "image", source.pixels, lambda _: "gptq", config.learning(), config.seed)
    for module in changed.modules():
        if isinstance(module, QuantizedLayer):
            module.freeze()
    return changed, {"loud": loud if variant.loud else {}, "copies": extra}


def copies(clip: CLIP, loud: dict[str, int], variant: Variant) -> dict[str, int]:
    """How many copies each input of a linear layer in the blocks gets that has no loud channels, if it gets some."""
    later = {reader for shared in clip.image.shared_inputs() for reader, _ in shared.readers[1:]}
    return {
        name: round(variant.split * layer.weight_shape[1])
        for name, layer in clip.image.named_modules()
        if variant.split and isinstance(layer, QuantizedLinear) and name.startswith("blocks.")
        if name not in {*later, *loud} and name.endswith(variant.split_layers)
    }


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, MODELS, SCHEMES, ("none",))
    parser.add_argument("--method", default="leaves", help="of the synthesis")
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=list(VARIANTS), help="; between")
    run_cells(parser.parse_args(), cells, measure)


if __name__ == "__main__":
    main()
