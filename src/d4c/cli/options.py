"""Every option that several commands take, declared once; choices and defaults come from the records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from d4c.cli.console import Amount
from d4c.evaluation.load_dataset import dataset_help
from d4c.models import tower_config
from d4c.quantization import config as quantization
from d4c.quantization.formats import scheme as formats
from d4c.quantization.rounding import config as rounding
from d4c.settings import presets
from d4c.synthesis.methods.table import METHODS


def _set_quiet(value: bool) -> None:
    Amount.quiet = value


def _set_verbose(value: bool) -> None:
    Amount.verbose = value


def _check_method(name: str | None) -> str | None:
    if name is not None and name not in METHODS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(METHODS)}.")
    return name


def tower_names(towers: str | None) -> list[str] | None:
    """The setting that stands for a choice of towers; None for none."""
    return None if towers is None else ["image", "text"] if towers == "both" else [towers]


def parse_overrides(items: list[str] | None) -> dict[str, str] | None:
    """Pairs PATTERN=SCHEME as a table; a pattern may hold equals signs."""
    if items is None:
        return None
    pairs = [item.rpartition("=") for item in items]
    for item, (pattern, _, scheme) in zip(items, pairs, strict=True):
        if not pattern or not scheme:
            raise typer.BadParameter(f"{item!r} is not of the form PATTERN=SCHEME", param_hint="--override")
    return {pattern: scheme for pattern, _, scheme in pairs}


DEFAULTS = quantization.QuantizeConfig

Model = Annotated[str, typer.Option(help="demo-vit, demo-rn, a file, a folder, hf-hub:org/name or an open_clip name.")]
Pretrained = Annotated[str | None, typer.Option(help="Weights of an open_clip name, such as openai.")]
Activation = Annotated[
    tower_config.Activation | None,
    typer.Option(help="Activation of the MLPs, which weights alone do not tell."),
]
Heads = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="IMAGE TEXT", help="Attention heads of both towers, which weights alone do not tell."),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of pictures in pixels, if not the model's; its positions are interpolated.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or another that PyTorch knows; auto is a GPU if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", callback=_set_quiet, help="Print results and errors only.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=_set_verbose, help="Print settings, and the trace of an error.")
]
Data = Annotated[str, typer.Option(help=dataset_help())]
_WITHOUT = typer.Option(
    "--calibration",
    help="Folder that synthesize wrote, or one with pictures; a model of a text tower alone needs none.",
)
OptionalCalibrationFolder = Annotated[Path | None, _WITHOUT]
CalibrationFolder = Annotated[Path, typer.Option(help="Folder that synthesize wrote, or one with pictures.")]

_PRESETS = (
    "Fills in what is not set otherwise: quick (two cores, weights in closed form), default, or paper (every "
    "published setting and the paper track)."
)
Preset = Annotated[presets.Preset | None, typer.Option(help=f"{_PRESETS} [default: {presets.DEFAULT_PRESET}]")]
ComparisonPreset = Annotated[
    presets.Preset | None, typer.Option("--preset", help=f"{_PRESETS} [default: {presets.COMPARISON_PRESET}]")
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=_check_method,
        autocompletion=lambda: list(METHODS),
        help="; ".join(f"{method.name} ({method.summary})" for method in METHODS.values()) + ". [default: d4c]",
    ),
]
Images = Annotated[int | None, typer.Option(help="How many images; by preset.")]
SynthesisSteps = Annotated[int | None, typer.Option("--iterations", help="Optimization steps; by preset.")]
Seed = Annotated[int | None, typer.Option(help=f"Seed of everything random. [default: {DEFAULTS.seed}]")]

Scheme = Annotated[
    str | None,
    typer.Option(help=f"Bits of weights and activations, 2 to 8 each. [default: {DEFAULTS.scheme}]"),
]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme",
        help="Bits of weights and activations, 2 to 8 each; may be repeated for a table that compares them. "
        f"[default: {DEFAULTS.scheme}]",
    ),
]
Track = Annotated[
    formats.Track | None,
    typer.Option(help="What integer hardware computes, or as published; by preset."),
]
Ranges = Annotated[
    quantization.RangeRule | None,
    typer.Option(help=f"How ranges of activations are chosen. [default: {DEFAULTS.ranges}]"),
]
Reconstruction = Annotated[
    quantization.Reconstruction | None,
    typer.Option(help="What is learned or solved after ranges are chosen; by preset, track and scheme."),
]
QuantizeSteps = Annotated[
    int | None, typer.Option("--iterations", help="Reconstruction steps for each unit; by preset and track.")
]
Importance = Annotated[
    rounding.Importance | None,
    typer.Option(
        help="Whether image tokens count by what their errors do to the embedding, or to the zero-shot distribution "
        f"over generic prompts. [default: {DEFAULTS.importance}]"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", help="Exception PATTERN=SCHEME or PATTERN=float over layer names; may be repeated."),
]
Towers = Annotated[
    Literal["both", "image", "text"] | None, typer.Option(help="The towers to quantize. [default: both]")
]
TargetBits = Annotated[
    float | None, typer.Option(help="Mean bits per weight: layers get widths by measured sensitivity.")
]
TargetBytes = Annotated[int | None, typer.Option(help="The same, as bytes of all packed weights.")]
FullRange = Annotated[
    bool | None, typer.Option(help="8-bit weights use all codes: more exact, and wrong on CPUs without VNNI.")
]
WideClassToken = Annotated[
    bool | None,
    typer.Option(
        help="Round the class token to 8 bits in its own range where others have fewer; never on track paper."
    ),
]
Soften = Annotated[
    bool | None,
    typer.Option(help="Use every second image at a half or a quarter of its sharpness; never on track paper."),
]
