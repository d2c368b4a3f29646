"""`inspect_folders`: what saved calibration images are like, as numbers and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from d4c.calibration.images import CalibrationSet
from d4c.errors import SettingError
from d4c.inspection.inspect_sets import CONTROLS, REAL, inspect
from d4c.inspection.report import Inspection
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import demo_models, load
from d4c.models.tower_config import Activation
from d4c.progress import Report
from d4c.report.page.render import render_inspection
from d4c.run.rows import REPORT
from d4c.storage.outputs import check_output, output_folder

KIND = "inspection"
"""What the manifest of an inspection calls it."""
RECORD = "inspection.json"
"""File with all numbers of an inspection."""


def inspect_folders(
    folders: Sequence[Path],
    model: str | None = None,
    real: str | None = None,
    output: Path | None = None,
    *,
    pretrained: str | None = None,
    activation: Activation | None = None,
    heads: tuple[int, int] | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Report = "auto",
) -> Inspection:
    """Inspect saved calibration sets, and optionally write numbers and a page about them to a folder.

    Sets are named by their method, with a number where one comes twice.

    Args:
        folders: Folders that `CalibrationSet.save` wrote.
        model: The model to measure with, as `load` takes it; by default the embedded model that the first set was made
            with.
        real: Real images to compare with, a spec of `load_dataset`.
        output: Folder to write inspection.json and report.html to, which appears whole or not at all.
        pretrained: Weights of the model, as `load` takes them.
        activation: Activation of the model, as `load` takes it.
        heads: Attention heads of the model, as `load` takes them.
        image_size: Side of its pictures, likewise.
        device: Device of the model.
        seed: Seed of the controls.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        All measures by set, as `inspect` returns them.

    Raises:
        ArtifactError: A folder is not a calibration set, or `output` holds something that d4c did not write.
        SettingError: The model has to be named.
        CheckpointError: The model cannot be loaded.
        DataError: `inspect` cannot use the sets or the real images.
    """
    if output is not None:
        # Checked before the work, which would be lost otherwise.
        check_output(output, KIND)
    sets: dict[str, CalibrationSet] = {}
    sources: dict[str, str] = {}
    for folder in folders:
        images = CalibrationSet.load(folder)
        name = unused_name(str(images.provenance.get("method", folder.name)), (*sets, *CONTROLS, REAL))
        sets[name], sources[name] = images, str(folder)
    if model is None:
        clip = embedded_model(sets, device)
    else:
        clip = load(model, pretrained, device, activation=activation, heads=heads, image_size=image_size)
    with nullcontext() if output is None else output_folder(output, KIND) as new:
        inspection = inspect(clip, sets, real, seed=seed, progress=progress)
        named = {name: replace(inspection.sets[name], source=source) for name, source in sources.items()}
        inspection = replace(inspection, sets={**inspection.sets, **named})
        if new is not None:
            record = json.dumps(inspection.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
            (new / RECORD).write_text(record + "\n", encoding="utf-8")
            page = render_inspection(inspection, sets)
            (new / REPORT).write_text(page, encoding="utf-8", errors="backslashreplace")
    return inspection


def embedded_model(sets: Mapping[str, CalibrationSet], device: str) -> CLIP:
    """Load the embedded model that the first of the sets was made with; raise SettingError if it is another model."""
    record = next(iter(sets.values())).provenance.get("model")
    name, digest = (record.get("name"), record.get("sha256")) if isinstance(record, dict) else (None, None)
    if name in demo_models():
        clip = load(str(name), device=device)
        if model_hash(clip) == digest:
            return clip
    raise SettingError(
        f"The images were made with {name!r}, which is not an embedded model; name the model with --model."
    )


def unused_name(name: str, used: Sequence[str]) -> str:
    """Return the name, followed by the first number from 2 that makes it unused if it is used."""
    choices = [name, *(f"{name} {number}" for number in range(2, len(used) + 3))]
    return next(choice for choice in choices if choice not in used)
