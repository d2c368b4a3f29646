"""The commands that measure something: evaluate, inspect, doctor, sensitivity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import d4c
from d4c.cli import options
from d4c.cli.console import progress_bar, show
from d4c.cli.display import (
    print_diagnosis,
    print_inspection,
    print_metrics,
    print_outputs,
    print_sensitivity,
    print_tokens,
)
from d4c.device import AUTO, resolve_device
from d4c.reading.ranges import SEED

if TYPE_CHECKING:
    from d4c.models.clip import CLIP
    from d4c.runtime.runtime_clip import RuntimeCLIP


def evaluate(
    source: Annotated[str, typer.Argument(help="Artifact or export folder, or anything that --model takes elsewhere.")],
    dataset: options.Data = "demo",
    reference: Annotated[str | None, typer.Option(help="Float model to compare with.")] = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    towers: Annotated[
        Literal["both", "image", "text"], typer.Option(help="Judge one tower, with the reference's other one.")
    ] = "both",
    dense: Annotated[bool, typer.Option("--dense", help="Also compare patches with the reference's.")] = False,
    limit: Annotated[int | None, typer.Option(help="Use that many images, evenly spread.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at an image that does not decode.")] = False,
    runtime: Annotated[
        Literal["torch", "onnxruntime", "openvino"],
        typer.Option(help="onnxruntime (its default) and openvino execute a folder that export wrote."),
    ] = "torch",
    device: options.Device = AUTO,
    format: Annotated[
        Literal["table", "json", "clip-benchmark"],
        typer.Option(help="clip-benchmark is the JSON that `clip_benchmark build` reads."),
    ] = "table",
    as_json: options.AsJson = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write the JSON to.")] = None,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Measure zero-shot accuracy or retrieval, with 95 % intervals."""
    from d4c.deployment.export import is_export
    from d4c.evaluation.clip_benchmark import clip_benchmark_record
    from d4c.evaluation.load_dataset import load_pictures
    from d4c.quantization.artifact.folder import is_artifact
    from d4c.storage.files import write_json
    from d4c.storage.outputs import check_output_file

    check_output_file(output, r'\{\s*"dataset": ')
    data = load_pictures(dataset)  # before a model is loaded, and before what is said of it
    if runtime == "torch" and is_export(Path(source)):
        runtime = "onnxruntime"
    if (runtime != "torch" or is_artifact(Path(source))) and reference is None:
        _refuse_loading_options(pretrained=pretrained, activation=activation, heads=heads, image_size=image_size)
    model: CLIP | RuntimeCLIP
    if runtime != "torch":
        model = d4c.load_quantized(source, "cpu" if device == AUTO else device, runtime=runtime)
    elif is_artifact(Path(source)):
        model = d4c.load_quantized(source, device=resolve_device(device))
    else:
        model = d4c.load(
            source, pretrained, device=resolve_device(device), activation=activation, heads=heads, image_size=image_size
        )
    float_model = None
    if reference is not None:
        place = resolve_device(device)
        float_model = d4c.load(
            reference, pretrained, device=place, activation=activation, heads=heads, image_size=image_size
        )
    if len(model.towers) == 1:
        if float_model is None or towers != "both" or dense or strict or format == "clip-benchmark":
            raise typer.BadParameter(
                f"{model.name!r} is the {model.towers[0]} tower alone; name its float model with --reference, and "
                "leave out --towers, --dense, --strict and --format clip-benchmark.",
                param_hint="SOURCE",
            )
        with progress_bar("evaluate") as progress:
            compared = d4c.evaluate_outputs(model, float_model, data, limit=limit, progress=progress)
        if output is not None:
            write_json(output, compared.to_dict())
        if as_json or format == "json":
            print(json.dumps(compared.to_dict(), indent=2))
        else:
            print_outputs(f"{model.name} {getattr(model, 'recipe', {}).get('scheme', '')}".strip(), compared)
        return
    with progress_bar("evaluate") as progress:
        metrics = d4c.evaluate(
            model,
            data,
            reference=float_model,
            towers=towers,
            dense=dense,
            limit=limit,
            strict=strict,
            progress=progress,
        )
    figures = metrics.to_dict()
    scheme = getattr(model, "recipe", {}).get("scheme")
    one_tower = "" if towers == "both" else f", {towers} tower"
    if format == "clip-benchmark":
        figures = clip_benchmark_record(metrics, model.name, f"{scheme or pretrained or 'float'}{one_tower}")
    if output is not None:
        write_json(output, figures)
    if as_json or format != "table":
        print(json.dumps(figures, indent=2))
    else:
        print_metrics(" ".join(filter(None, (model.name, scheme))) + one_tower, metrics)


def _refuse_loading_options(**given: object) -> None:
    """Refuse options that say how a checkpoint is loaded where none is."""
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(
                "Artifacts and exports are as they were quantized; leave it out, or name the float model with "
                "--reference.",
                param_hint=f"--{name.replace('_', '-')}",
            )


def inspect(
    folders: Annotated[list[Path], typer.Argument(help="Folders that synthesize wrote.")],
    model: Annotated[str | None, typer.Option(help="As elsewhere; default: the embedded model of the images.")] = None,
    real: Annotated[str | None, typer.Option(help="Real images to compare with, as --dataset elsewhere.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write inspection.json and report.html to.")
    ] = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    seed: Annotated[int, typer.Option(min=SEED.low, max=SEED.high, help="Seed of everything random.")] = 0,
    device: options.Device = AUTO,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Explain images by numbers and charts.

    Prompts, structure and activation ranges, beside those of noise, dead leaves and real images.
    """
    from d4c.report.inspect_folders import inspect_folders
    from d4c.run.rows import REPORT

    place = resolve_device(device)
    with progress_bar("inspect") as progress:
        inspection = inspect_folders(
            folders,
            model,
            real,
            output,
            pretrained=pretrained,
            activation=activation,
            heads=heads,
            image_size=image_size,
            device=place,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print(json.dumps(inspection.to_dict(), indent=2))
        return
    print_inspection(inspection)
    show(f"{output / REPORT}: open it in a browser" if output else "-o DIR writes all numbers, and a page with charts")


def doctor(
    model: Annotated[str, typer.Argument(help="As --model elsewhere.")],
    scheme: options.Scheme = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    device: options.Device = AUTO,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Say what a checkpoint is like before it is quantized.

    Uneven channels, loud tokens and channels, dead ones, layers at risk, and what to do; no data needed.
    """
    from d4c.quantization.doctor.examine import examine
    from d4c.quantization.formats.scheme import Scheme

    Scheme.parse(scheme or options.DEFAULTS.scheme)  # before a model is loaded
    clip = d4c.load(
        model, pretrained, device=resolve_device(device), activation=activation, heads=heads, image_size=image_size
    )
    with progress_bar("doctor") as progress:
        diagnosis = examine(clip, scheme or options.DEFAULTS.scheme, progress=progress)
    if as_json:
        print(json.dumps(diagnosis.to_dict(), indent=2))
        return
    print_diagnosis(diagnosis)


def sensitivity(
    model: options.Model,
    calibration: options.CalibrationFolder,
    scheme: options.Scheme = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this layer: which tokens carry the error of its inputs.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    device: options.Device = AUTO,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Measure what each layer costs.

    Each is quantized alone, at other bits, and left in float when all others are quantized. With --layer, the inputs
    of one layer are rounded for one kind of token at a time: class token, loud patches, other patches, words.
    """
    from d4c.calibration.images import check_calibration, load_calibration
    from d4c.quantization.sensitivity.measure import Sensitivity, measure_sensitivity
    from d4c.quantization.sensitivity.tokens import TokenSensitivity, measure_tokens
    from d4c.storage.files import write_json
    from d4c.storage.outputs import check_output_file

    check_output_file(output, r'\{\s*"model": "[^"]*",\s*"(scheme|layer)": ')
    check_calibration(calibration)
    clip = d4c.load(
        model, pretrained, device=resolve_device(device), activation=activation, heads=heads, image_size=image_size
    )
    images = load_calibration(calibration, clip)
    with progress_bar("sensitivity") as progress:
        costs: Sensitivity | TokenSensitivity
        if layer is None:
            costs = measure_sensitivity(clip, images, scheme or options.DEFAULTS.scheme, progress=progress)
        else:
            costs = measure_tokens(clip, images, layer, scheme or options.DEFAULTS.scheme, progress=progress)
    if output:
        write_json(output, costs.to_dict())
    if as_json:
        print(json.dumps(costs.to_dict(), indent=2))
        return
    if isinstance(costs, TokenSensitivity):
        print_tokens(costs)
    else:
        print_sensitivity(costs)
    if output:
        show(f"written to {output}")
