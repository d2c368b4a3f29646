"""Command lines of benchmarks: what several of them ask for."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.common.problems import PHOTOS
from d4c.synthesis.config import PRESETS


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def words(text: str) -> list[str]:
    return text.split(",")


def integers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def add_seeds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=integers, default=[0, 1, 2], help="such as 0,1,2")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def add_models_and_data(parser: argparse.ArgumentParser) -> None:
    """Folders of the bench models and of the photographs that they are judged on."""
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bench models")
    parser.add_argument("--data", type=Path, default=Path("data"), help=f"folder of {', '.join(PHOTOS)} as .parquet")


def add_real(parser: argparse.ArgumentParser) -> None:
    default = Path("data/tiny-imagenet-train.parquet")
    parser.add_argument("--real", type=Path, default=default, help="photographs to draw from, for the method real")


def add_cache_and_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, default=Path("out/cache"), help="folder for pixels and float embeddings")
    parser.add_argument("--rows", type=int, help="of each dataset, evenly spread; all by default")


def require_names(parser: argparse.ArgumentParser, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """End the program with a usage error where a name is not known."""
    choices = list(known)
    if unknown := sorted(set(names) - set(choices)):
        parser.error(f"The {what} {unknown[0]!r} is unknown; choose from {', '.join(choices)}.")


def add_grid(
    parser: argparse.ArgumentParser, models: Sequence[str], schemes: Sequence[str], reconstructions: Sequence[str]
) -> None:
    """What `benchmarks.common.workers.run_cells` and the cells of a grid need, with the grid's own axes as defaults."""
    add_models_and_data(parser)
    add_real(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=words, default=models, help="models")
    parser.add_argument("--schemes", type=words, default=schemes)
    parser.add_argument("--reconstructions", type=words, default=reconstructions)
    add_seeds(parser)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="of the synthesis")
    parser.add_argument("--rows", type=int, help="of each dataset, evenly spread; all by default")
    parser.add_argument("--batch", type=int, default=500, help="images evaluated at once")
    parser.add_argument("--processes", type=int, default=1)
    add_device(parser)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so long")
