"""The commands that use an artifact: export, search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

import d4c
from d4c.cli import options
from d4c.cli.console import progress_bar, say_skipped, show
from d4c.deployment.targets import DEFAULT_TARGET, TARGETS, target_help


def _check_target(name: str) -> str:
    if name not in TARGETS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(TARGETS)}.")
    return name


def export(
    artifact: Annotated[str, typer.Argument(help="Folder that quantize or run wrote.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write; default: the artifact's with -NAME.")
    ] = None,
    target: Annotated[
        str, typer.Option("--for", metavar="NAME", callback=_check_target, help=f"What will read it: {target_help()}")
    ] = DEFAULT_TARGET,
    tower: Annotated[Literal["image", "text"] | None, typer.Option(help="Write this tower alone.")] = None,
    features: Annotated[
        bool, typer.Option("--features", help="The states between blocks are outputs as well.")
    ] = False,
    fixed_shapes: Annotated[
        bool, typer.Option("--fixed-shapes", help="One picture and one whole prompt at a time, as NPUs want it.")
    ] = False,
    webgpu: Annotated[
        bool, typer.Option("--webgpu", help="Also write graphs for GPUs in browsers, with the same 4-bit weights.")
    ] = False,
    float32: Annotated[
        bool, typer.Option("--float32", help="Write the float model that ARTIFACT names here, to compare with.")
    ] = False,
    float16: Annotated[bool, typer.Option("--float16", help="Likewise, in half precision.")] = False,
    unpacked: Annotated[
        bool, typer.Option("--unpacked", help="8 bits per weight: larger files that load faster.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare ONNX Runtime with PyTorch, layer by layer.")] = True,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Write graphs that runtimes execute with integer kernels."""
    if float32 and float16:
        raise typer.BadParameter("Give only one of --float32 and --float16.")
    with progress_bar("export") as progress:
        made = d4c.export(
            d4c.load(artifact) if float32 or float16 else artifact,
            output,
            target=target,
            tower=tower,
            features=features,
            fixed_shapes=fixed_shapes,
            webgpu=webgpu,
            half=float16,
            unpacked=unpacked,
            check=check,
            progress=progress,
        )
    if as_json:
        print(json.dumps({"folder": str(made.folder), **made.to_dict()}, indent=2))
        return
    for file, size in made.sizes.items():
        if size < 50_000:
            continue  # settings
        show(f"{made.folder / file}: {size / 1e6:.1f} MB")
    for name, parity in (made.parity or {}).items():
        show(f"{name}: {parity.summary()}")


def search(
    model: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    top: Annotated[int, typer.Option(min=1, help="How many matches.")] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write a page of thumbnails.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="File that keeps the embeddings; default: .d4c-search.npz beside the pictures.")
    ] = None,
    runtime: Annotated[
        Literal["onnxruntime", "openvino"], typer.Option(help="What executes the model.")
    ] = "onnxruntime",
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Find pictures by words.

    Only what is new or changed since the last search is embedded.
    """
    from d4c.runtime.gallery import check_folder, open_gallery
    from d4c.runtime.page import write_page
    from d4c.runtime.runtime_clip import RuntimeCLIP
    from d4c.storage.outputs import check_output_file

    check_output_file(html)
    check_folder(images)  # before a model is loaded
    clip = RuntimeCLIP(model, runtime)
    with progress_bar("embed") as progress:
        gallery = open_gallery(clip, images, embeddings, progress=progress)
    matches = gallery.search(clip, query, top)
    summary = f"{len(matches)} of {len(gallery.paths)} pictures in {images}, by {clip.name} in {runtime}"
    if html is not None:
        write_page(html, query, images, matches, summary)
    if as_json:
        rows = [{"path": match.path, "score": match.score} for match in matches]
        print(json.dumps({"matches": rows, "embedded": gallery.embedded, "skipped": gallery.skipped}, indent=2))
        return
    for match in matches:
        show(f"{match.score:.3f}  {match.path}")
    say_skipped(gallery.skipped.values())
