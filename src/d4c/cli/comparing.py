"""The command that compares: compare."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from d4c.cli import options
from d4c.cli.console import note, progress_bar, say, show
from d4c.cli.display import print_paper_table, print_summary


def _words(text: str | None) -> list[str] | None:
    """A list that is written with commas."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str | None) -> list[int] | None:
    words = _words(text)
    if words is None:
        return None
    try:
        return [int(word) for word in words]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 0,1,2.") from None


def compare(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="As in the other commands; may be repeated.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings, which options override.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the grid as TOML and do nothing.")] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With commas: names of --method, METHOD:FILE for the prompts of a file, real:SPEC for images of a "
            "dataset."
        ),
    ] = None,
    schemes: Annotated[str | None, typer.Option(help="With commas, such as W8A8,W4A4.")] = None,
    tracks: Annotated[str | None, typer.Option(help="With commas: deployable, paper.")] = None,
    reconstructions: Annotated[
        str | None,
        typer.Option(help="With commas: default (by preset, track and scheme), block, layer, gptq, none."),
    ] = None,
    towers: Annotated[str | None, typer.Option(help="With commas: both, image, text.")] = None,
    seeds: Annotated[str | None, typer.Option(help="With commas, such as 0,1,2.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="As in evaluate; may be repeated. [default: demo]")] = None,
    preset: options.ComparisonPreset = None,
    images: options.Images = None,
    iterations: options.SynthesisSteps = None,
    steps: Annotated[int | None, typer.Option(help="Reconstruction steps for each unit; by preset and track.")] = None,
    wide_class_token: options.WideClassToken = None,
    limit: Annotated[int | None, typer.Option(help="Use that many images of each dataset, evenly spread.")] = None,
    pretrained: options.Pretrained = None,
    device: Annotated[str | None, typer.Option(help="As in the other commands. [default: auto]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the cells out.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Share the cells out over this Ray cluster, one task each.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin nothing after so long; the same command resumes.")
    ] = None,
    recipe: Annotated[
        Literal["paper-table"] | None, typer.Option(help="The published table on --cifar10, --cifar100, --imagenet.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the recipe's models, such as openai, or a folder of them.")
    ] = None,
    cifar10: Annotated[str | None, typer.Option(metavar="DIR", help="Of the recipe; or as --dataset.")] = None,
    cifar100: Annotated[str | None, typer.Option(metavar="DIR", help="Likewise.")] = None,
    imagenet: Annotated[str | None, typer.Option(metavar="DIR", help="Likewise.")] = None,
    real: Annotated[str | None, typer.Option(help="Dataset of the recipe's real calibration images.")] = None,
    leaderboard: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Also time each model, and append rows that can be checked.")
    ] = None,
    as_json: options.AsJson = False,
    _quiet: options.Quiet = False,
    _verbose: options.Verbose = False,
) -> None:
    """Compare methods, schemes and seeds on datasets.

    Every combination is a cell. A comparison that was stopped resumes where it stopped, and a grid that grows keeps the
    cells it has. The tables are in summary.md, summary.csv and summary.parquet, the report is report.html.
    """
    from d4c.comparison.compare import compare as compare_grid
    from d4c.comparison.config import comparison_config
    from d4c.comparison.leaderboard import append_rows, check_board
    from d4c.comparison.paper_table import paper_page, paper_settings, paper_specs
    from d4c.comparison.summary import summary
    from d4c.comparison.tables import write_tables
    from d4c.comparison.workers.local_workers import LocalWorkers, Workers
    from d4c.comparison.workers.ray_workers import RayWorkers
    from d4c.device import resolve_device
    from d4c.report.write_comparison import write_comparison
    from d4c.run.config import merged, read_toml
    from d4c.storage.files import atomic_file
    from d4c.storage.outputs import check_output_file

    check_output_file(leaderboard, "")  # what it holds is for `check_board`
    if leaderboard is not None:
        check_board(leaderboard)
    specs = {} if recipe is None else paper_specs({"cifar10": cifar10, "cifar100": cifar100, "imagenet": imagenet})
    settings = {} if config is None else read_toml(config)
    if recipe is not None:
        settings = merged(paper_settings(specs, weights, real), settings)
    settings = merged(
        settings,
        {
            "models": model or None,
            "pretrained": pretrained,
            "methods": _words(methods),
            "schemes": _words(schemes),
            "tracks": _words(tracks),
            "reconstructions": _words(reconstructions),
            "towers": _words(towers),
            "seeds": _numbers(seeds),
            "datasets": dataset or None,
            "preset": preset,
            "images": images,
            "iterations": iterations,
            "steps": steps,
            "wide_class_token": wide_class_token,
            "limit": limit,
            "device": device,
            "latency": True if leaderboard else None,
        },
    )
    record = comparison_config(settings)
    place = resolve_device(record.device)
    if dry_run:
        for line in record.to_toml().splitlines():
            show(line)
        return
    if output is None:
        raise typer.BadParameter("Missing; name the folder to write.", param_hint="--output")
    note(record.to_toml())
    team: Workers = LocalWorkers(workers, place) if ray is None else RayWorkers(ray, place, workers)
    with progress_bar("compare") as progress:
        comparison = compare_grid(record, output, team, progress, math.inf if minutes is None else minutes)
    if comparison.missing:
        measured = len(comparison.results)
        say(f"{measured} of {measured + comparison.missing} cells are measured; the same command resumes")
        return
    rows = summary(comparison)
    write_tables(rows, output)
    if recipe is not None:
        with atomic_file(output / "paper_table.md") as new:
            new.write_text(paper_page(comparison, specs), encoding="utf-8")
    if leaderboard is not None:
        added = append_rows(comparison, leaderboard, shlex.join(["d4c", *sys.argv[1:]]))
        say(f"{added} rows added to {leaderboard}")
    report, _ = write_comparison(output)
    for what, reason in comparison.unfit.items():
        say(f"left out, {what}: {reason}")
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=2))
        return
    if recipe is None:
        print_summary(rows)
    else:
        print_paper_table(comparison, specs)
        show(f"published table: {output / 'paper_table.md'}")
    show(f"written to {output / 'summary.md'}, .csv and .parquet")
    show(f"report: {report}")
