"""The command that writes a page for people: report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from d4c.cli import options
from d4c.cli.console import progress_bar, show
from d4c.device import AUTO, resolve_device


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, of an artifact or of a comparison.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; default: report.html in a run, or beside an artifact."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Another artifact or run of the same model, side by side with the first.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Float model; default: that of the run, or the embedded one.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="As in evaluate; default: that of the run, or demo for embedded models.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Images that the artifact was calibrated on; default: those of its run.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Export of the artifact, for its speed; default: one beside it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Use that many pictures, evenly spread.")] = 200,
    pretrained: options.Pretrained = None,
    activation: options.Activation = None,
    heads: options.Heads = None,
    image_size: options.ImageSize = None,
    device: options.Device = AUTO,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Write an HTML page that says what quantization did.

    Captions before and after, which tower and which layers lose what, the calibration images, and how to make the
    model again; in one file that needs no network.
    """
    from d4c.report.write_comparison import is_comparison, write_comparison
    from d4c.report.write_report import ReportOptions, write_report

    if is_comparison(folder):
        if compare is not None:
            raise typer.BadParameter("A comparison already compares; leave it out.", param_hint="--compare")
        file, rows = write_comparison(folder, output)
        _say(file, {"rows": [row.to_dict() for row in rows]}, as_json)
        return
    settings = ReportOptions(
        model=model,
        pretrained=pretrained,
        activation=activation,
        heads=heads,
        image_size=image_size,
        dataset=dataset,
        calibration=calibration,
        export=export,
        limit=limit,
        device=resolve_device(device),
    )
    with progress_bar("report") as progress:
        file, made = write_report(folder, output, compare=compare, options=settings, progress=progress)
    _say(file, made.to_dict(), as_json)


def _say(file: Path, content: dict[str, Any], as_json: bool) -> None:
    """Where the page is, or all that it says."""
    if as_json:
        print(json.dumps({"file": str(file), **content}, indent=2))
    else:
        show(f"{file}: open it in a browser")
