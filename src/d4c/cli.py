"""The command line: one thin function a verb, no logic of its own."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import d4c
from d4c.deployment.targets import DEFAULT_FORMAT, format_help
from d4c.display import (
    errors,
    metrics_cells,
    metrics_table,
    print_inspection,
    print_run,
    print_sensitivity,
    progress_bar,
)
from d4c.errors import D4CError, quantize_extra
from d4c.evaluation.load_dataset import dataset_help
from d4c.settings.presets import Preset as Preset_
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.models.clip import CLIP
    from d4c.runtime.runtime_clip import RuntimeCLIP

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Model = Annotated[str, typer.Option(help="demo-vit, demo-rn, a file, a folder, hf-hub:org/name or an open_clip name.")]
Pretrained = Annotated[str | None, typer.Option(help="Weights of an open_clip name, such as openai.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Preset = Annotated[Preset_, typer.Option(help="quick (2 cores), default, or paper (the published settings).")]
Method = Annotated[
    str,
    typer.Option(
        help="d4c; its ablations pgsi, pgsi+scg, pgsi+pae; bns (only ResNets); pse (only ViTs); noise, pink, leaves."
    ),
]
Data = Annotated[str, typer.Option(help=dataset_help())]
Track = Annotated[str | None, typer.Option(help="deployable (what integer hardware computes) or paper (as published).")]
Reconstruction = Annotated[
    str | None, typer.Option(help="block, layer, published, gptq or none; default by track and preset.")
]

SafeInt8 = Annotated[
    bool, typer.Option("--safe-int8", help="8-bit weights in 7 bits: exact on CPUs without VNNI as well.")
]
Soften = Annotated[
    bool, typer.Option(help="Use every second image at a half or a quarter of its sharpness; never on track paper.")
]


@app.callback()
def version(
    _show: Annotated[
        bool, typer.Option("--version", callback=lambda asked: _print_version(asked), is_eager=True)
    ] = False,
) -> None:
    """Data-free low-bit quantization of CLIP models."""


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: exit code 0 done, 1 an error of ours in one sentence, 2 wrong usage."""
    try:
        with quantize_extra():
            app()
    except D4CError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        errors.print(f"error: The system refused{where}: {error.strerror}.", style="red", markup=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def run(
    model: Model,
    output: Output,
    scheme: Annotated[str, typer.Option(help="Bits of weights and activations, 2 to 8 each.")] = "W4A8",
    preset: Preset = "default",
    method: Method = "d4c",
    track: Track = None,
    reconstruction: Reconstruction = None,
    safe_int8: SafeInt8 = False,
    soften: Soften = True,
    dataset: Data = "demo",
    pretrained: Pretrained = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Synthesize images, quantize both towers, evaluate, and save the artifact; goes on where it was stopped."""
    from d4c.run import RunConfig
    from d4c.run import run as run_job

    config = RunConfig(
        model=model,
        scheme=scheme,
        preset=preset,
        method=method,
        track=track,
        reconstruction=reconstruction,
        safe_int8=safe_int8,
        soften=soften,
        dataset=dataset,
        pretrained=pretrained,
        device=_device(device),
        seed=seed,
    )
    result = run_job(config, output, progress_bar)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print_run(result, config.scheme)


@app.command()
def synthesize(
    model: Model,
    output: Output,
    method: Method = "d4c",
    preset: Preset = "default",
    images: Annotated[int | None, typer.Option(help="How many images; default by preset.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimization steps; default by preset.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images at once, in whole groups of 16; default all of a process.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts: a .txt or .json file.")] = None,
    pretrained: Pretrained = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make calibration images from nothing but the model; goes on where it was stopped, shared out under torchrun."""
    from d4c.synthesis.resume import remove_checkpoints
    from d4c.synthesis.shards import workers

    unfinished = output.with_name(f"{output.name}.unfinished")
    with workers(_device(device)) as (own_device, writes):
        clip = d4c.load(model, pretrained, device=own_device)
        with progress_bar(f"synthesize {method}") if writes else nullcontext() as progress:
            made = d4c.synthesize(
                clip,
                method,
                preset,
                images=images,
                iterations=iterations,
                batch=batch,
                prompts=prompts,
                seed=seed,
                progress=progress,
                checkpoint=unfinished,
            )
        if not writes:
            return
        made.save(output)
        remove_checkpoints(unfinished)
    if as_json:
        print(json.dumps(made.provenance, indent=2))
    else:
        print(f"{len(made.pixels)} images in {output}; look at {output / 'contact_sheet.png'}")


@app.command()
def quantize(
    model: Model,
    output: Output,
    calibration: Annotated[Path, typer.Option(help="Folder that synthesize wrote.")],
    scheme: Annotated[str, typer.Option(help="Bits of weights and activations, 2 to 8 each.")] = "W4A8",
    track: Track = "deployable",
    ranges: Annotated[str, typer.Option(help="Ranges of activations: mse, minmax or percentile.")] = "mse",
    reconstruction: Reconstruction = None,
    iterations: Annotated[int | None, typer.Option(help="Reconstruction steps a unit.")] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="none; embedding or zeroshot: image tokens count by what their errors do to the embedding, or to the "
            "zero-shot distribution over generic prompts."
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(help="Exception PATTERN=SCHEME over layer names; may be repeated.")
    ] = None,
    target_bits: Annotated[
        float | None, typer.Option(help="Mean bits a weight: layers get widths by measured sensitivity.")
    ] = None,
    target_bytes: Annotated[int | None, typer.Option(help="The same, as bytes of all packed weights.")] = None,
    safe_int8: SafeInt8 = False,
    soften: Soften = True,
    pretrained: Pretrained = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Quantize both towers and save the artifact; goes on where it was stopped."""
    from d4c.files import refuse_occupied
    from d4c.quantization.artifact.folder import is_artifact
    from d4c.quantization.rounding.resume import remove_checkpoint

    # Not at the end, when the work of hours would be lost.
    refuse_occupied(output, is_artifact, "a quantized model")
    unfinished = output.with_name(f"{output.name}.unfinished")
    clip = d4c.load(model, pretrained, device=_device(device))
    images = d4c.CalibrationSet.load(calibration)
    with progress_bar("quantize") as progress:
        quantized = d4c.quantize(
            clip,
            images,
            scheme,
            track=track,
            ranges=ranges,
            reconstruction=reconstruction,
            iterations=iterations,
            importance=importance,
            overrides=_overrides(override or []),
            target_bits=target_bits,
            target_bytes=target_bytes,
            safe_int8=safe_int8,
            soften=soften,
            seed=seed,
            progress=progress,
            checkpoint=unfinished,
        )
    quantized.save_pretrained(output)
    remove_checkpoint(unfinished)
    if as_json:
        print(json.dumps({**quantized.recipe, "effective_bits": quantized.effective_bits()}, indent=2))
        return
    print(f"{quantized.effective_bits():.2f} bits a weight in {output}")
    for pattern, own in quantized.recipe["overrides"].items():
        print(f"exception: {pattern} at {own}")


@app.command()
def evaluate(
    source: Annotated[str, typer.Argument(help="Artifact folder, or anything that --model takes elsewhere.")],
    dataset: Data = "demo",
    reference: Annotated[str | None, typer.Option(help="Float model to compare with.")] = None,
    pretrained: Pretrained = None,
    limit: Annotated[int | None, typer.Option(help="Use that many images, evenly spread.")] = None,
    runtime: Annotated[str, typer.Option(help="torch; onnxruntime or openvino for a folder that export wrote.")] = (
        "torch"
    ),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Zero-shot accuracy of a model, an artifact or an export, with 95 % intervals."""
    from d4c.quantization.artifact.folder import is_artifact

    place = _device(device)
    model: CLIP | RuntimeCLIP
    if runtime != "torch":
        model = d4c.load_quantized(source, device or "cpu", runtime=runtime)  # type: ignore[call-overload]
    elif is_artifact(Path(source)):
        model = d4c.load_quantized(source, device=place)
    else:
        model = d4c.load(source, pretrained, device=place)
    float_model = None if reference is None else d4c.load(reference, pretrained, device=place)
    with progress_bar("evaluate") as progress:
        metrics = d4c.evaluate(model, dataset, reference=float_model, limit=limit, progress=progress)
    if as_json:
        print(json.dumps(metrics.to_dict(), indent=2))
    else:
        table = metrics_table(f"{model.name} on {metrics.dataset}, {metrics.count} images")
        table.add_row(*metrics_cells(model.name, metrics))
        Console().print(table)


@app.command()
def export(
    artifact: Annotated[Path, typer.Argument(help="Folder that quantize or run wrote.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write; default: the artifact's with -onnx.")
    ] = None,
    format: Annotated[str, typer.Option(help=format_help())] = DEFAULT_FORMAT,
    unpacked: Annotated[
        bool, typer.Option("--unpacked", help="8 bits a weight: larger files that load faster.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare ONNX Runtime with PyTorch, layer by layer.")] = True,
    as_json: AsJson = False,
) -> None:
    """Write both towers as ONNX graphs that ONNX Runtime and OpenVINO execute with integer kernels."""
    with progress_bar("export") as progress:
        made = d4c.export(artifact, output, format=format, unpacked=unpacked, check=check, progress=progress)
    if as_json:
        print(json.dumps({"folder": str(made.folder), **made.to_dict()}, indent=2))
        return
    for file, size in made.sizes.items():
        print(f"{made.folder / file}: {size / 1e6:.1f} MB")
    for tower, found in (made.parity or {}).items():
        print(f"{tower}: {found.summary()}")


@app.command()
def inspect(
    folders: Annotated[list[Path], typer.Argument(help="Folders that synthesize wrote.")],
    model: Annotated[str | None, typer.Option(help="As elsewhere; default: the embedded model of the images.")] = None,
    real: Annotated[str | None, typer.Option(help="Real images to compare with, as --dataset elsewhere.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write inspection.json and the figures to.")
    ] = None,
    pretrained: Pretrained = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain images by numbers and figures, beside noise, dead leaves and real images: prompts, structure, ranges."""
    from d4c.inspection.inspect_sets import inspect_folders

    with progress_bar("inspect") as progress:
        found = inspect_folders(
            folders, model, real, output, pretrained=pretrained, device=_device(device), seed=seed, progress=progress
        )
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    print_inspection(found)
    print(f"written to {output}" if output else "-o DIR writes all numbers and figures")


@app.command()
def search(
    model: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    top: Annotated[int, typer.Option(min=1, help="How many matches.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write a page of thumbnails.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="File that keeps the embeddings; default: .d4c-search.npz beside the pictures.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
    as_json: AsJson = False,
) -> None:
    """Find pictures by words; embeds only what is new or changed since the last search."""
    from d4c.runtime.gallery import open_gallery
    from d4c.runtime.page import printable, write_page
    from d4c.runtime.runtime_clip import RuntimeCLIP

    clip = RuntimeCLIP(model, runtime)
    with progress_bar("embed") as progress:
        gallery = open_gallery(clip, images, embeddings, progress=progress)
    matches = gallery.search(clip, query, top)
    note = f"{len(matches)} of {len(gallery.paths)} pictures in {images}, by {clip.name} in {runtime}"
    if html is not None:
        write_page(html, query, images, matches, note)
    if as_json:
        found = [{"path": match.path, "score": match.score} for match in matches]
        print(json.dumps({"matches": found, "embedded": gallery.embedded, "skipped": gallery.skipped}, indent=2))
        return
    for match in matches:
        print(f"{match.score:.3f}  {printable(match.path)}")
    for reason in gallery.skipped.values():
        errors.print(f"skipped: {printable(reason)}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def sensitivity(
    model: Model,
    calibration: Annotated[Path, typer.Option(help="Folder that synthesize wrote.")],
    scheme: Annotated[str, typer.Option(help="Bits of weights and activations, 2 to 8 each.")] = "W4A8",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    pretrained: Pretrained = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """What each layer costs: quantized alone, at other bits, and left in float when all others are quantized."""
    from d4c.files import write_json
    from d4c.quantization.sensitivity.measure import measure_sensitivity

    clip = d4c.load(model, pretrained, device=_device(device))
    images = d4c.CalibrationSet.load(calibration)
    with progress_bar("sensitivity") as progress:
        found = measure_sensitivity(clip, images, scheme, progress=progress)
    text = json.dumps(found.to_dict(), indent=2)
    if output:
        write_json(output, found.to_dict())
    if as_json:
        print(text)
        return
    print_sensitivity(found)
    if output:
        print(f"written to {output}")


def _device(asked: str | None) -> str:
    import torch

    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def _overrides(given: list[str]) -> dict[str, str]:
    pairs = [item.rpartition("=") for item in given]
    for item, (pattern, _, scheme) in zip(given, pairs, strict=True):
        if not pattern or not scheme:
            raise typer.BadParameter(f"{item!r} is not of the form PATTERN=SCHEME", param_hint="--override")
    return {pattern: scheme for pattern, _, scheme in pairs}
