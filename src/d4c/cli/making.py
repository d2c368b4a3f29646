"""The commands that make something: run, synthesize, quantize."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

import d4c
from d4c.cli import options
from d4c.cli.console import Amount, note, progress_bar, show
from d4c.cli.display import print_findings, print_run
from d4c.device import AUTO, resolve_device


def run(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    model: Annotated[str | None, typer.Option(help="As in the other commands; required unless FILE has it.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings, which options override.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print all settings as TOML and do nothing.")] = False,
    scheme: options.Schemes = None,
    preset: options.Preset = None,
    method: options.Method = None,
    track: options.Track = None,
    reconstruction: options.Reconstruction = None,
    towers: options.Towers = None,
    full_range: options.FullRange = None,
    wide_class_token: options.WideClassToken = None,
    soften: options.Soften = None,
    dataset: Annotated[str | None, typer.Option(help="As in evaluate. [default: demo]")] = None,
    strict: Annotated[bool | None, typer.Option("--strict", help="As in evaluate.")] = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    seed: options.Seed = None,
    device: Annotated[str | None, typer.Option(help="As in the other commands. [default: auto]")] = None,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Do everything: synthesize, quantize, evaluate, save, report.

    The table compares images of the method with noise, unless that is the method. A run that was stopped resumes where
    it stopped, and a finished one prints its table again.
    """
    from d4c.run.config import merged, read_toml, run_config
    from d4c.run.job import run as run_job
    from d4c.run.rows import REPORT

    settings = merged(
        {} if config is None else read_toml(config),
        {
            "preset": preset,
            "model": model,
            "pretrained": pretrained,
            "activation": activation,
            "heads": heads,
            "image_size": image_size,
            "dataset": dataset,
            "strict": strict,
            "device": device,
            "more_schemes": scheme[1:] if scheme else None,
            "synthesis": {"method": method, "seed": seed},
            "quantization": {
                "scheme": scheme[0] if scheme else None,
                "track": track,
                "reconstruction": reconstruction,
                "towers": options.tower_names(towers),
                "full_range": full_range,
                "wide_class_token": wide_class_token,
                "soften": soften,
                "seed": seed,
            },
        },
    )
    if settings.get("model") is None:
        raise typer.BadParameter("Missing; name a model here or in the file of --config.", param_hint="--model")
    record = run_config(settings)
    if dry_run:
        resolve_device(record.device)
        for line in record.to_toml().splitlines():
            show(line)
        return
    if output is None:
        raise typer.BadParameter("Missing; name the folder to write.", param_hint="--output")
    note(record.to_toml())
    result = run_job(record, output, progress_bar)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print_run(result)
    if not (output / REPORT).exists():
        from d4c.report.write_report import ReportOptions, write_report

        with progress_bar("report") as progress:
            write_report(output, options=ReportOptions(device=resolve_device(record.device)), progress=progress)
    if not as_json:
        show(f"report: {output / REPORT}")


def synthesize(
    model: options.Model,
    output: options.Output,
    method: options.Method = None,
    preset: options.Preset = None,
    images: options.Images = None,
    iterations: options.SynthesisSteps = None,
    batch: Annotated[
        int | None, typer.Option(help="Images at once, in whole groups of 16; default all of a process.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts: a .txt or .json file.")] = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    seed: options.Seed = None,
    device: options.Device = AUTO,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Make calibration images from nothing but the model.

    A synthesis that was stopped resumes where it stopped. Under torchrun the processes share the images out.
    """
    from d4c.calibration.images import KIND
    from d4c.storage.outputs import check_output, reserved, unfinished_beside
    from d4c.synthesis.config import synthesis_config
    from d4c.synthesis.resume import refuse_other_files, remove_checkpoints
    from d4c.synthesis.shards import workers

    settings = {"images": images, "iterations": iterations, "batch": batch, "seed": seed}
    config = synthesis_config(method, preset, settings)
    note(f"{config}")
    check_output(output, KIND)
    unfinished = unfinished_beside(output)
    refuse_other_files(unfinished)
    with workers(resolve_device(device)) as (own_device, writes):
        clip = d4c.load(model, pretrained, device=own_device, activation=activation, heads=heads, image_size=image_size)
        with reserved(output) if writes else nullcontext():
            with progress_bar(f"synthesize {config.method}") if writes else nullcontext() as progress:
                made = d4c.synthesize(clip, config, prompts=prompts, progress=progress, checkpoint=unfinished)
            if not writes:
                return
            made.save(output)
            remove_checkpoints(unfinished)
    if as_json:
        print(json.dumps(made.provenance, indent=2))
    else:
        show(f"{len(made.pixels)} images in {output}; look at {output / 'contact_sheet.png'}")


def quantize(
    model: options.Model,
    output: options.Output,
    calibration: options.OptionalCalibrationFolder = None,
    scheme: options.Scheme = None,
    preset: options.Preset = None,
    track: options.Track = None,
    ranges: options.Ranges = None,
    reconstruction: options.Reconstruction = None,
    iterations: options.QuantizeSteps = None,
    importance: options.Importance = None,
    override: options.Overrides = None,
    towers: options.Towers = None,
    target_bits: options.TargetBits = None,
    target_bytes: options.TargetBytes = None,
    full_range: options.FullRange = None,
    wide_class_token: options.WideClassToken = None,
    soften: options.Soften = None,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    seed: options.Seed = None,
    device: options.Device = AUTO,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Quantize both towers and save the artifact.

    First it says what `d4c doctor` finds. A reconstruction that was stopped resumes where it stopped.
    """
    settings = {
        "track": track,
        "ranges": ranges,
        "reconstruction": reconstruction,
        "iterations": iterations,
        "importance": importance,
        "overrides": options.parse_overrides(override),
        "towers": options.tower_names(towers),
        "target_bits": target_bits,
        "target_bytes": target_bytes,
        "full_range": full_range,
        "wide_class_token": wide_class_token,
        "soften": soften,
        "seed": seed,
    }
    from d4c.calibration.images import check_calibration, load_calibration
    from d4c.quantization.artifact.folder import KIND
    from d4c.quantization.config import quantize_config
    from d4c.quantization.doctor.examine import examine
    from d4c.quantization.preparation import checked_pixels
    from d4c.quantization.quantize import check_layers
    from d4c.quantization.rounding.resume import refuse_other_files, remove_checkpoint
    from d4c.storage.outputs import check_output, reserved, unfinished_beside

    config = quantize_config(scheme, preset, settings)
    note(f"{config}")
    # Not at the end, when the work of hours would be lost.
    check_output(output, KIND)
    unfinished = unfinished_beside(output)
    refuse_other_files(unfinished)
    if calibration is not None:
        check_calibration(calibration)
    clip = d4c.load(
        model, pretrained, device=resolve_device(device), activation=activation, heads=heads, image_size=image_size
    )
    check_layers(clip, config)
    if calibration is None and "image" in clip.towers:
        raise typer.BadParameter(
            "Missing; name a folder that synthesize wrote, or one with pictures.", param_hint="--calibration"
        )
    images = load_calibration(calibration, clip) if calibration is not None and "image" in clip.towers else None
    if "image" in clip.towers:
        checked_pixels(clip, images)
    if config.track == "deployable" and not (as_json or Amount.quiet):
        with progress_bar("doctor") as progress:
            diagnosis = examine(clip, config.scheme, wide_class_token=config.wide_class_token, progress=progress)
        print_findings(diagnosis)
    with reserved(output):
        with progress_bar("quantize") as progress:
            quantized = d4c.quantize(clip, images, config, progress=progress, checkpoint=unfinished)
        quantized.save_pretrained(output)
        remove_checkpoint(unfinished)
    if as_json:
        results = {"effective_bits": quantized.effective_bits(), "loud_channels": quantized.loud_channels()}
        print(json.dumps({**quantized.recipe, **results}, indent=2))
        return
    show(f"{quantized.effective_bits():.2f} bits per weight in {output}")
    for pattern, exception in quantized.recipe["overrides"].items():
        if exception != quantized.recipe["scheme"]:
            show(f"exception: {pattern} at {exception}")
    for layer, channels in quantized.loud_channels().items():
        show(f"exception: input channels {', '.join(map(str, channels))} of {layer} with their own scale at 8 bits")
    if count := sum(entry.class_token for entry in quantized.plan.values()):
        show(f"exception: class token in its own range at 8 bits, {count} layers of image.blocks.*")
