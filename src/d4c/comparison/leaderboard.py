"""A file of rows that anyone can check: what was quantized, how, on what, and the hashes of what came out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from d4c.comparison.compare import Comparison
from d4c.comparison.config import Cell
from d4c.comparison.latency import BATCHES
from d4c.comparison.summary import paired
from d4c.errors import DataError
from d4c.evaluation.metrics.record import FIGURES
from d4c.storage.files import atomic_file, read_text

TIMES = tuple(
    f"{form}{tower}_batch_{batch}_ms" for tower in ("image", "text") for batch in BATCHES for form in ("", "float_")
)
COLUMNS = (
    *("model", "checkpoint_sha256", "scheme", "track", "reconstruction", "towers", "image_bits", "text_bits"),
    *("exceptions", "calibration", "calibration_images", "seed", "bytes", "float_bytes", "artifact_sha256"),
    *("dataset", "images", "figure", "value", "low", "high", "float_value", "change", "change_low", "change_high"),
    *("same_class", "same_class_low", "same_class_high", "other_figures", "predictions_sha256"),
    *("measured_with", "measured_on", "timed_with", "timed_on", *TIMES, "command"),
)
"""Headings of the file. Figures are in percent, changes in points; times are of both towers of the export and of the
float model's, in one runtime and one process."""


def append_rows(comparison: Comparison, file: Path, command: str) -> int:
    """Append a row for each quantized cell and dataset; one that the file holds already is not written again.

    Args:
        comparison: A finished comparison, whose cells were timed if its settings say so.
        file: A CSV file, which is made where there is none.
        command: The command line that gives the same rows.

    Returns:
        The number of rows that are new.

    Raises:
        DataError: The file holds other columns.
    """
    known = check_board(file)
    seen = {_identity(row) for row in known}
    new = [row for row in _rows(comparison, command) if _identity(row) not in seen]
    with atomic_file(file) as path, path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows([*known, *new])
    return len(new)


def check_board(file: Path) -> list[dict[str, str]]:
    """Return the rows of a file, none where there is no file.

    Raises:
        DataError: The file holds other columns.
    """
    text = read_text(file) if file.is_file() else ""
    if text and tuple(next(csv.reader(text.splitlines()))) != COLUMNS:
        raise DataError(f"{file} has other columns than a leaderboard of this d4c; name another file.")
    return list(csv.DictReader(text.splitlines()))


def _identity(row: dict[str, Any]) -> tuple[str, ...]:
    """What tells that two rows say the same: the artifact, its predictions, and what computed and timed them."""
    names = (
        "artifact_sha256",
        "dataset",
        "predictions_sha256",
        "measured_with",
        "measured_on",
        "timed_with",
        "timed_on",
    )
    return tuple(row[name] for name in names)


def _rows(comparison: Comparison, command: str) -> list[dict[str, Any]]:
    return [
        _row(comparison, cell, result, spec, command)
        for cell, result in comparison.results.items()
        if not cell.is_float and "unfit" not in result
        for spec in comparison.config.datasets
    ]


def _row(comparison: Comparison, cell: Cell, result: dict[str, Any], spec: str, command: str) -> dict[str, Any]:
    data, floating = result["results"][spec], comparison.results[Cell(cell.model)]
    figure = data["metrics"][data["figure"]]
    change = paired([result], [floating], spec)
    same, times = data["metrics"]["fidelity"]["same_class"], result.get("latency", {})
    return {
        "model": Path(cell.model).name,
        "checkpoint_sha256": result["model_sha256"],
        "scheme": cell.scheme,
        "track": cell.track,
        "reconstruction": cell.reconstruction,
        "towers": cell.towers,
        "image_bits": round(result["bits"]["image"], 3),
        "text_bits": round(result["bits"]["text"], 3),
        "exceptions": " ".join(f"{pattern}={scheme}" for pattern, scheme in result["exceptions"].items()),
        "calibration": cell.method,
        "calibration_images": result["calibration_images"],
        "seed": cell.seed,
        "bytes": result["bytes"],
        "float_bytes": result["float_bytes"],
        "artifact_sha256": result["artifact_sha256"],
        "dataset": spec,
        "images": data["metrics"]["count"],
        "figure": data["figure"],
        **{name: round(figure[name], 3) for name in ("value", "low", "high")},
        "float_value": round(floating["results"][spec]["metrics"][data["figure"]]["value"], 3),
        "change": "" if change is None else round(change.value, 3),
        "change_low": "" if change is None else round(change.low, 3),
        "change_high": "" if change is None else round(change.high, 3),
        "same_class": round(same["value"], 3),
        "same_class_low": round(same["low"], 3),
        "same_class_high": round(same["high"], 3),
        "other_figures": _others(data),
        "predictions_sha256": data["predictions_sha256"],
        "measured_with": f"d4c {result['versions']['d4c']}, torch {result['versions']['torch']}",
        "measured_on": result["device"],
        "timed_with": times.get("runtime", ""),
        "timed_on": times.get("processor", ""),
        **{name: round(times[name], 3) for name in TIMES if name in times},
        "command": command,
    }


def _others(data: dict[str, Any]) -> str:
    """The figures that the dataset is not judged by, each with its interval."""
    figures = {name: data["metrics"][name] for name in FIGURES if name in data["metrics"] and name != data["figure"]}
    return " ".join(
        f"{name}={each['value']:.3f}({each['low']:.3f},{each['high']:.3f})" for name, each in figures.items()
    )
