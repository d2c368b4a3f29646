"""The whole job: synthesize, quantize, evaluate, with a run directory that is resumed stage by stage."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from d4c.calibration.images import CalibrationSet
from d4c.errors import DataError, SettingError
from d4c.evaluation.embed import embed
from d4c.evaluation.evaluate import score
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics import Metrics
from d4c.files import write_json
from d4c.manifest import is_done, outcome, seconds, stage_folder
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import load
from d4c.progress import Progress
from d4c.quantization.artifact.folder import load_quantized
from d4c.quantization.config import QuantizeConfig, quantize_config
from d4c.quantization.quantize import quantize
from d4c.quantization.rounding.resume import remove_checkpoint
from d4c.settings.presets import Preset
from d4c.synthesis.config import synthesis_config
from d4c.synthesis.resume import remove_checkpoints
from d4c.synthesis.synthesize import synthesize
from d4c.version import __version__

# Opens a progress display for a stage; the value is called with what is done and the total.
Reporter = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run, as `d4c run` takes them."""

    model: str
    scheme: str = "W4A8"
    preset: Preset = "default"
    method: str = "d4c"
    track: str | None = None
    reconstruction: str | None = None
    safe_int8: bool = False
    soften: bool = True
    dataset: str = "demo"
    pretrained: str | None = None
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One line of the final table; `size` in bytes."""

    name: str
    metrics: Metrics
    size: int


@dataclass(frozen=True)
class RunResult:
    """What a run ends with: the table and the seconds of each stage (those of the run that made it)."""

    folder: Path
    rows: list[Row]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "rows": [{"name": r.name, "bytes": r.size, **r.metrics.to_dict()} for r in self.rows],
        }


def run(config: RunConfig, folder: Path, report: Reporter) -> RunResult:
    """Do the whole job in `folder`, skipping every stage that is done already.

    Raises a D4CError subclass with one sentence if a setting, the model or the data cannot be used.
    """
    _check_settings(config)
    dataset = load_dataset(config.dataset)
    clip = load(config.model, config.pretrained, device=config.device)
    _prepare_folder(folder)
    write_json(folder / "config.json", {**asdict(config), "versions": versions()})
    model = model_hash(clip)

    calibrations: dict[str, Path] = {}
    for name, method in (("synthesis", config.method), ("noise", "noise")):
        calibrations[name] = folder / name
        key = {"model": model, "method": method, "preset": config.preset, "seed": config.seed}
        _synthesis(clip, calibrations[name], key, report)
    artifacts: dict[str, Path] = {}
    quantization = _quantization(config)
    for name, source in (("artifact", "synthesis"), ("baseline", "noise")):
        artifacts[name] = folder / name
        key = {
            "model": model,
            "calibration": outcome(calibrations[source]),
            "quantization": quantization.to_dict(),
        }
        _artifact(clip, calibrations[source], artifacts[name], key, quantization, report)
    data_key = {"dataset": config.dataset, "images": len(dataset), "device": config.device}
    key = {"model": model, **data_key, **{name: outcome(path) for name, path in artifacts.items()}}
    evaluation = folder / "evaluation"
    if not is_done(evaluation, key):
        labels = [("float", None), ("noise", artifacts["baseline"]), (config.method, artifacts["artifact"])]
        _evaluation(clip, dataset, labels, evaluation, key, report)
    rows = [
        Row(row["name"], Metrics.from_dict(row["metrics"]), row["bytes"])
        for row in json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))["rows"]
    ]
    stages = [*calibrations.values(), *artifacts.values(), evaluation]
    result = RunResult(folder, rows, {path.name: seconds(path) for path in stages})
    write_json(folder / "metrics.json", result.to_dict())
    return result


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"d4c": __version__, "torch": torch.__version__, "python": platform.python_version()}


def float_size(clip: CLIP) -> int:
    """Bytes of a CLIP in float32, without the rows of its token table that are all zero."""
    table = clip.text.token_embedding.weight
    unused = int((~table.any(1)).sum()) * table.shape[1]
    return 4 * (sum(p.numel() for p in clip.parameters()) - unused)


def _quantization(config: RunConfig) -> QuantizeConfig:
    names = ("track", "reconstruction", "safe_int8", "soften", "seed")
    return quantize_config(config.scheme, config.preset, {name: getattr(config, name) for name in names})


def _check_settings(config: RunConfig) -> None:
    """Refuse at the start what a later stage would refuse after hours."""
    _quantization(config)
    synthesis_config(config.method, config.preset, {})


def _synthesis(clip: CLIP, folder: Path, key: dict[str, Any], report: Reporter) -> None:
    if is_done(folder, key):
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with stage_folder(folder, key) as new:
        with report(f"synthesize {key['method']}") as progress:
            made = synthesize(
                clip, key["method"], key["preset"], seed=key["seed"], progress=progress, checkpoint=unfinished
            )
        made.save(new)
    remove_checkpoints(unfinished)


def _artifact(
    clip: CLIP, calibration: Path, folder: Path, key: dict[str, Any], config: QuantizeConfig, report: Reporter
) -> None:
    if is_done(folder, key):
        return
    images = CalibrationSet.load(calibration)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with stage_folder(folder, key) as new:
        with report(f"quantize with {images.provenance['method']}") as progress:
            quantized = quantize(clip, images, config, progress=progress, checkpoint=unfinished)
        quantized.save_pretrained(new)
    remove_checkpoint(unfinished)


def _evaluation(
    clip: CLIP, dataset: Any, labels: list[tuple[str, Path | None]], folder: Path, key: dict[str, Any], report: Reporter
) -> None:
    rows, reference = [], None
    with stage_folder(folder, key) as new:
        for name, path in labels:
            model = clip if path is None else load_quantized(path, device=clip.device)
            size = float_size(clip) if path is None else _size(path)
            with report(f"evaluate {name}") as progress:
                embeddings = embed(model, dataset, progress=progress)
            reference = reference or embeddings
            metrics = score(embeddings, dataset, reference=None if path is None else reference)
            rows.append({"name": name, "bytes": size, "metrics": metrics.to_dict()})
        write_json(new / "metrics.json", {"rows": rows})


def _size(artifact: Path) -> int:
    return (artifact / "model.safetensors").stat().st_size


def _prepare_folder(folder: Path) -> None:
    """Make the run directory; stages replace folders in it, so nothing else may be there."""
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file, but the output must be a folder; choose another path.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The output folder {folder} cannot be made ({error.strerror}); choose another path.") from None
    if any(folder.iterdir()) and not _is_run(folder):
        raise SettingError(f"{folder} holds files and is no run directory; choose an empty or a new folder.")


def _is_run(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"preset", "versions"} <= set(config)
