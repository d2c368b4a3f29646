"""`Subject`: a quantized model that a report is about, with all that lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4c.calibration.images import CalibrationSet, is_calibration_set
from d4c.deployment.export import is_export
from d4c.deployment.targets import DEFAULT_TARGET
from d4c.errors import ArtifactError, SettingError
from d4c.models.config import TOWERS
from d4c.models.formats import load as formats
from d4c.models.formats.identity import model_hash
from d4c.quantization.artifact.folder import WEIGHTS, is_artifact
from d4c.quantization.artifact.read import read_artifact
from d4c.reading.json_file import read_json
from d4c.run.config import RunConfig, run_config
from d4c.run.rows import CONFIG, Row, read_rows
from d4c.storage.files import sha256
from d4c.storage.manifest import read_manifest

if TYPE_CHECKING:
    from d4c.models.clip import CLIP
    from d4c.quantization.quantized import QuantizedCLIP

ARTIFACT, BASELINE, SYNTHESIS, NOISE = "artifact", "baseline", "synthesis", "noise"
"""Names of the folders of a run: models, and the images that each was calibrated on."""


@dataclass(frozen=True)
class Subject:
    """A quantized model, and what is known about how it was made.

    Attributes:
        name: What the report calls it.
        folder: Its artifact.
        model: The artifact, loaded.
        digest: SHA-256 of its weights.
        images: The images that it was calibrated on, if they are there.
        images_folder: Where they are.
        export: An export of it, if there is one.
        run: The settings of the run that made it, if one did.
        rows: The table of that run.
        seconds: How long each stage took: those of the run if all of it is reported, else those of this model.
    """

    name: str
    folder: Path
    model: QuantizedCLIP
    digest: str
    images: CalibrationSet | None
    images_folder: Path | None
    export: Path | None
    run: RunConfig | None
    rows: tuple[Row, ...]
    seconds: dict[str, float]

    @property
    def recipe(self) -> dict[str, Any]:
        """How the model was quantized."""
        return self.model.recipe

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return (self.folder / WEIGHTS).stat().st_size


def open_subject(
    folder: Path, calibration: Path | None = None, export: Path | None = None, device: str = "cpu"
) -> Subject:
    """Open a run or an artifact.

    Args:
        folder: Folder of a run, or of an artifact in one or elsewhere.
        calibration: Images that the artifact was calibrated on, if they are not those of its run.
        export: Folder of an export, if it is not beside the artifact.
        device: Where the model is put.

    Returns:
        The model and what lies beside it.

    Raises:
        ArtifactError: The folder is neither, or something in it is damaged.
        SettingError: The images or the export are of another model.
    """
    artifact = folder if is_artifact(folder) else folder / ARTIFACT
    if not is_artifact(artifact):
        raise ArtifactError(f"{folder} is neither a run nor an artifact; give the folder of d4c run or d4c quantize.")
    model = read_artifact(artifact, device)
    digest = sha256(artifact / WEIGHTS)
    run = _run_of(artifact.parent)
    rows = read_rows(artifact.parent / "evaluation" / "metrics.json") if run and _is_evaluated(artifact.parent) else []
    images_folder = _images_folder(artifact, calibration, run is not None)
    images = None if images_folder is None else _images(artifact, model, images_folder, calibration is not None)
    return Subject(
        name=_name(model),
        folder=artifact,
        model=model,
        digest=digest,
        images=images,
        images_folder=None if images is None else images_folder,
        export=_export(artifact, digest, export),
        run=run,
        rows=tuple(rows),
        seconds=_seconds_of_stages(folder) if artifact != folder else _seconds_of_model(model),
    )


def float_model(
    subject: Subject, name: str | None, device: str, pretrained: str | None = None, **settings: Any
) -> CLIP:
    """Load the float model that a subject was made from.

    Args:
        subject: The quantized model.
        name: The model as `load` takes it; by default that of the subject's run, or the embedded model.
        device: Where it is put.
        pretrained: Weights of an open_clip name.
        **settings: What `load` takes besides: activation, heads and image size.

    Returns:
        The float model.

    Raises:
        SettingError: The model has to be named, or is another one.
    """
    record, run = subject.recipe["model"], subject.run
    if name is None and run is not None:
        name, pretrained = run.model, run.pretrained
        settings = {"activation": run.activation, "heads": run.heads, "image_size": run.image_size}
    if name is None and record["name"] in formats.demo_models():
        name = record["name"]
    if name is None:
        raise SettingError(
            f"{subject.folder} was made from {record['name']!r}, which is not an embedded model; "
            "name the float model with --model."
        )
    clip = formats.load(name, pretrained, device, **settings)
    if model_hash(clip) != record["sha256"]:
        raise SettingError(
            f"The model {name!r} does not have the weights that {subject.folder} was made from "
            f"(SHA-256 {record['sha256'][:16]}...); name that one with --model."
        )
    clip.require(TOWERS, "A report", "compare its outputs by d4c evaluate with --reference")
    return clip


def _name(model: QuantizedCLIP) -> str:
    return f"{model.recipe['scheme']}, {model.recipe['calibration'].get('method', 'given images')}"


def _run_of(folder: Path) -> RunConfig | None:
    """The settings of the run that a folder is of, if it is one."""
    if not (folder / CONFIG).is_file() or not (folder / ARTIFACT).is_dir():
        return None
    config = read_json(folder / CONFIG, ArtifactError, "run again")
    return run_config(config) if isinstance(config, dict) and "synthesis" in config else None


def _is_evaluated(folder: Path) -> bool:
    return (folder / "evaluation" / "metrics.json").is_file()


def _images_folder(artifact: Path, calibration: Path | None, in_run: bool) -> Path | None:
    """Where the images that an artifact was calibrated on should be: where the user says, or in its run."""
    if calibration is not None or not in_run:
        return calibration
    folder = artifact.parent / (NOISE if artifact.name.startswith(BASELINE) else SYNTHESIS)
    return folder if is_calibration_set(folder) else None


def _images(artifact: Path, model: QuantizedCLIP, folder: Path, named: bool) -> CalibrationSet | None:
    """The images that an artifact was calibrated on; None if the run has other ones by now."""
    images = CalibrationSet.load(folder)
    if images.provenance == model.recipe["calibration"]:
        return images
    if named:
        raise SettingError(
            f"{folder} does not hold the images that {artifact} was calibrated on; give that folder, or leave it out."
        )
    return None


def _export(artifact: Path, digest: str, export: Path | None) -> Path | None:
    """The export of an artifact: the named one, or one beside it, if possible one that our runtime executes."""
    if export is not None and not is_export(export):
        raise ArtifactError(f"{export} is not an export; give the folder that d4c export wrote.")
    exports: dict[str, Path] = {}
    for folder in [export] if export else sorted(artifact.parent.glob(f"{artifact.name}-*")):
        if is_export(folder):
            record = read_json(folder / "export.json", ArtifactError, "run d4c export again")
            if isinstance(record, dict) and record.get("artifact") == digest and (folder / "image.onnx").is_file():
                exports.setdefault(str(record.get("format")), folder)
    if export is not None and not exports:
        raise SettingError(f"{export} is not an export of {artifact}; export that one with d4c export.")
    return exports.get(DEFAULT_TARGET) or next(iter(exports.values()), None)


def _seconds_of_stages(folder: Path) -> dict[str, float]:
    """How long each stage of a run took, in order."""
    stages = {path.parent.name: read_manifest(path.parent) for path in folder.glob("*/manifest.json")}
    times = {name: float(record["seconds"]) for name, record in stages.items() if record and "seconds" in record}
    order = [SYNTHESIS, NOISE, BASELINE, ARTIFACT]
    return dict(sorted(times.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _seconds_of_model(model: QuantizedCLIP) -> dict[str, float]:
    """How long the images of a model and its quantization took, as far as they say so."""
    records = {"synthesis": model.recipe["calibration"], "quantization": model.recipe}
    return {name: float(record["seconds"]) for name, record in records.items() if "seconds" in record}
