"""The published table as a grid, and its page: measured gains beside those that the authors report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from d4c.comparison.compare import Comparison
from d4c.comparison.config import REAL, Cell
from d4c.comparison.summary import Result, by_combination, paired, with_method
from d4c.comparison.tables import points
from d4c.errors import SettingError
from d4c.evaluation.load_dataset import READERS

NAME = "paper-table"
MODELS = ("RN50", "ViT-B-32", "ViT-B-16")
METHODS = ("bns", "pse", "d4c")
"""The two rivals, each of which serves one kind of tower, and the method."""
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
READERS_OF_FOLDERS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet1k"}
PUBLISHED: dict[tuple[str, str], dict[str, float]] = {
    ("W4A8", "cifar10"): {"bns": 12.4, "pse": 18.9},
    ("W4A8", "cifar100"): {"bns": 6.8, "pse": 19.7},
    ("W4A8", "imagenet"): {"bns": 1.4, "pse": 5.7},
    ("W6A6", "cifar10"): {"bns": 7.5, "pse": 9.5},
    ("W6A6", "cifar100"): {"bns": 4.6, "pse": 10.4},
}
"""Points that D4C gains over its rival (arXiv 2511.15411): for RN50 over "bns", for ViT-B/32 over "pse"."""
OF_PUBLISHED = {"bns": "RN50", "pse": "ViT-B/32"}


def paper_specs(folders: Mapping[str, str | None]) -> dict[str, str]:
    """Specs of the datasets by the names of `DATA`, from folders or from specs of any reader.

    Raises:
        SettingError: None is given.
    """
    specs = {
        name: value if value.partition(":")[0] in READERS and ":" in value else f"{READERS_OF_FOLDERS[name]}:{value}"
        for name, value in folders.items()
        if value is not None
    }
    if not specs:
        raise SettingError(f"The recipe {NAME} has no data; give --cifar10, --cifar100, --imagenet or some of them.")
    return specs


def paper_settings(specs: Mapping[str, str], weights: str | None, real: str | None) -> dict[str, Any]:
    """The settings of the published table, which options may override.

    Args:
        specs: Datasets by the names of `DATA`.
        weights: Weights of the three models' open_clip names, or a folder with a file or a folder for each, such as
            RN50.pt or RN50/.
        real: Dataset of the real calibration images; by default ImageNet, or else the first one.

    Raises:
        SettingError: The folder of weights lacks some.
    """
    local = weights is not None and Path(weights).is_dir()
    source = real or specs.get("imagenet") or next(iter(specs.values()))
    return {
        "models": _weights_in(Path(str(weights))) if local else list(MODELS),
        "pretrained": None if local else weights,
        "methods": [*METHODS, f"{REAL}{source}"],
        "schemes": ["W4A8", "W6A6", "W8A8"],
        "tracks": ["paper", "deployable"],
        "datasets": list(specs.values()),
        "preset": "paper",
    }


def _weights_in(folder: Path) -> list[str]:
    """The path of each model of the table in a folder."""
    paths = {path.name if path.is_dir() else path.stem: str(path) for path in sorted(folder.iterdir())}
    if missing := [name for name in MODELS if name not in paths]:
        raise SettingError(
            f"{folder} has no weights called {', '.join(missing)}, expected a file or a folder for each of "
            f"{', '.join(MODELS)}; complete the folder."
        )
    return [paths[name] for name in MODELS]


HEAD = ("model", "track", "scheme", "dataset", "float", "rival", "D4C", "real", "gain over the rival", "published gain")
KEYS = 4
"""Columns that tell a line apart."""
NOTE = """Top-1 in percent, mean over seeds; gains in points, with 95 % intervals over images, paired. The rival is
`bns` on ResNets and `pse` on vision transformers. Published gains (arXiv 2511.15411) are of OpenAI's RN50 and ViT-B/32
on the published track with one seed and without intervals; beside other models, data or settings they only say which
kind of tower gains more."""


def paper_page(comparison: Comparison, specs: Mapping[str, str]) -> str:
    """The table as Markdown.

    Args:
        comparison: A finished grid of `paper_settings`.
        specs: Datasets by the names of `DATA`.
    """
    rows = [HEAD, ("---",) * len(HEAD), *paper_rows(comparison, specs)]
    return f"# The published table\n\n{NOTE}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def paper_rows(comparison: Comparison, specs: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The lines of the table, with the columns of `HEAD`."""
    groups = by_combination(comparison)
    real = next((method for method in comparison.config.methods if method.startswith(REAL)), REAL)
    for cell, results in groups.items():
        rival = next((name for name in OF_PUBLISHED if with_method(cell, name) in groups), None)
        if cell.method != "d4c" or rival is None:
            continue
        others = groups[with_method(cell, rival)]
        for name, spec in ((name, spec) for name, spec in specs.items() if spec in comparison.config.datasets):
            ends = (groups[Cell(cell.model)], others, results, groups.get(with_method(cell, real), []))
            model = Path(cell.model).stem
            known = cell.track == "paper" and model != "ViT-B-16"  # of which no gains are published
            gain = PUBLISHED.get((cell.scheme, name), {}).get(rival) if known else None
            yield (
                *(model, cell.track, cell.scheme, DATA[name]),
                *(_mean(each, spec) for each in ends),
                points(paired(results, others, spec)),
                "" if gain is None else f"{gain:+.1f} ({OF_PUBLISHED[rival]})",
            )


def _mean(results: list[Result], spec: str) -> str:
    values = [each["results"][spec]["metrics"][each["results"][spec]["figure"]]["value"] for each in results]
    return f"{mean(values):.1f}" if values else ""
