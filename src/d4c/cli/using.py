"""The commands that use an artifact: export, search, serve."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import d4c
from d4c.cli import options
from d4c.cli.console import progress_bar, say, say_skipped, show
from d4c.deployment.targets import DEFAULT_TARGET, TARGETS, target_help
from d4c.errors import require, warn
from d4c.runtime.serving.limits import Limits

if TYPE_CHECKING:
    from d4c.runtime.gallery import Answer, Gallery

Embeddings = Annotated[
    Path | None, typer.Option(help="File that keeps the embeddings; default: .d4c-search.npz beside the pictures.")
]
Runtime = Annotated[Literal["onnxruntime", "openvino"], typer.Option(help="What executes the model.")]


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
    narrow_table: Annotated[
        bool, typer.Option("--narrow-table", help="4 bits for the token table: smaller, a little less exact.")
    ] = False,
    webgpu: Annotated[
        bool, typer.Option("--webgpu", help="Also write graphs for GPUs in browsers, with the same 4-bit weights.")
    ] = False,
    without_vnni: Annotated[
        bool, typer.Option("--without-vnni", help="For OpenVINO on processors without VNNI: the same in half the time.")
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
            narrow_table=narrow_table,
            webgpu=webgpu,
            without_vnni=without_vnni,
            half=float16,
            unpacked=unpacked,
            check=check,
            progress=progress,
        )
    if as_json:
        print(json.dumps({"folder": str(made.folder), **made.to_dict()}, indent=2))
        return
    for file, size in made.sizes.items():
        if not file.endswith(".json"):  # settings
            show(f"{made.folder / file}: {size / 1e6:.1f} MB")
    for name, parity in (made.parity or {}).items():
        show(f"{name}: {parity.summary()}")


def search(
    model: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="[QUERY]...", help="What to look for, in words; each on its own.")
    ] = None,
    like: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Look for pictures like this one; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many matches for each query.")] = 10,
    watch: Annotated[
        bool, typer.Option("--watch", help="Search again whenever pictures come or change, until Ctrl-C.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page of thumbnails.")] = None,
    embeddings: Embeddings = None,
    runtime: Runtime = "onnxruntime",
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Find pictures by words, or by pictures that are like them.

    Only what is new or changed since the last search is embedded.
    """
    if not queries and not like:
        raise typer.BadParameter("Nothing is looked for; give words, or a picture with --like.")
    from d4c.runtime.gallery import Answer, check_folder, open_gallery
    from d4c.runtime.page import write_page
    from d4c.runtime.queries import picture_query, word_query
    from d4c.runtime.runtime_clip import RuntimeCLIP
    from d4c.runtime.watching import changes
    from d4c.storage.outputs import PAGE, check_output_file

    check_output_file(html, PAGE)
    check_folder(images)  # before a model is loaded
    clip = RuntimeCLIP(model, runtime)
    asked = [word_query(clip, words) for words in queries or []]
    asked += [picture_query(clip, file, str(file)) for file in like or []]
    for _ in changes(images) if watch else range(1):
        with progress_bar("embed") as progress:
            gallery = open_gallery(clip, images, embeddings, progress=progress)
        answers = [Answer(query.name, tuple(gallery.search(query, top))) for query in asked]
        if html is not None:
            write_page(html, answers, images, f"{len(gallery.paths)} pictures in {images}, by {clip.name} in {runtime}")
        if as_json:
            print(json.dumps(_search_result(answers, gallery), indent=None if watch else 2), flush=True)
        else:
            _show_answers(answers, gallery)


def serve(
    model: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures that can be searched.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    megabytes: Annotated[int, typer.Option(help="Size of the largest request.")] = Limits.megabytes,
    seconds: Annotated[float, typer.Option(help="Time in which a request is read and answered.")] = Limits.seconds,
    queue: Annotated[int, typer.Option(help="Requests at one time; the next ones get 503.")] = Limits.queue,
    workers: Annotated[int, typer.Option(help="Requests that are computed at one time.")] = Limits.workers,
    embeddings: Embeddings = None,
    runtime: Runtime = "onnxruntime",
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Answer over HTTP, with the library's answers.

    POST /embed/image, /embed/text, /classify, GET or POST /search, GET /, /health, /metrics.
    """
    for module in ("prometheus_client", "starlette", "uvicorn"):
        require(module, "serve", "A server needs")
    from d4c.runtime.gallery import check_folder, open_gallery
    from d4c.runtime.runtime_clip import RuntimeCLIP
    from d4c.runtime.serving.server import hosts_of, listen, make_server, url_of
    from d4c.runtime.serving.site import Site

    limits = Limits(megabytes, seconds, queue, workers)
    if pictures is not None:
        check_folder(pictures)
    with listen(host, port) as listener:  # before a model is loaded
        clip = RuntimeCLIP(model, runtime)
        gallery = None
        if pictures is not None:
            with progress_bar("embed") as progress:
                gallery = open_gallery(clip, pictures, embeddings, progress=progress)
            _say_how(gallery)
        hosts = hosts_of(host, listener)
        if hosts is None:
            warn(f"Everybody who reaches {host} gets answers, without a password or encryption.")
        site = Site(clip, gallery, pictures, limits, hosts)
        if as_json:
            count = None if gallery is None else len(gallery.paths)
            print(json.dumps({"url": url_of(listener), "model": clip.name, "pictures": count}), flush=True)
        else:
            show(f"{clip.name} answers at {url_of(listener)} until Ctrl-C")
            sys.stdout.flush()
        make_server(site, limits).run(sockets=[listener])


def _search_result(answers: list[Answer], gallery: Gallery) -> dict[str, Any]:
    results = [
        {"query": answer.query, "matches": [{"path": m.path, "score": m.score} for m in answer.matches]}
        for answer in answers
    ]
    return {
        "results": results,
        "embedded": gallery.embedded,
        "skipped": gallery.skipped,
        "exact": gallery.index is None,
    }


def _show_answers(answers: list[Answer], gallery: Gallery) -> None:
    for answer in answers:
        if len(answers) > 1:
            show(f"{answer.query}:")
        for match in answer.matches:
            show(f"{match.score:.3f}  {match.path}")
    sys.stdout.flush()  # who watches through a pipe sees it now
    _say_how(gallery)


def _say_how(gallery: Gallery) -> None:
    """What may be missing from the matches."""
    if gallery.index is not None:
        say(f"{len(gallery.paths)} pictures are searched through an index, which may miss a match.")
    say_skipped(gallery.skipped.values())
