"""`synthesize`: makes calibration images from a CLIP alone."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import resolve_prompts
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.formats.identity import model_record
from d4c.progress import Progress, Report, reporting
from d4c.settings.presets import Preset
from d4c.synthesis.config import SynthesisConfig, synthesis_config
from d4c.synthesis.loop import Loop, chunks
from d4c.synthesis.methods.table import METHODS
from d4c.synthesis.resume import Checkpoint
from d4c.synthesis.setup import Setup, prepare
from d4c.synthesis.shards import join, rank_and_count, share, sum_of_processes
from d4c.synthesis.tower.encode import encode
from d4c.synthesis.tower.working import reproducible, resolve_precision, speed_up, working_copy
from d4c.synthesis.views import crop
from d4c.version import __version__


def synthesize(
    clip: CLIP,
    method: str | SynthesisConfig | None = None,
    preset: Preset | None = None,
    *,
    prompts: Sequence[str] | str | Path | None = None,
    device: str | torch.device | None = None,
    progress: Report = "auto",
    checkpoint: str | Path | None = None,
    **settings: Any,
) -> CalibrationSet:
    """Make calibration images for a CLIP without any data.

    The same seed, settings and device give the same images, bit for bit. The number of images that go through the tower
    at once (`batch`), and the number of threads on a CPU, only change how float sums round; the provenance has both.
    Under torchrun, after `torch.distributed.init_process_group`, each process makes its share and all return the whole
    set. It equals that of one process, bit for bit if that has the same `batch` and threads and every share is a
    multiple of it.

    Args:
        clip: The model. It runs where it is, or as a copy on `device`, and is not changed.
        method: "d4c" (the published method), its ablations "pgsi", "pgsi+scg" and "pgsi+pae", one of the baselines
            "bns" (BatchNorm statistics, ResNets only) and "pse" (patch-similarity entropy, transformers only), or one
            of the controls that ask nothing of the model: "noise", "pink", "leaves"; or a record of all settings.
        preset: Source of all other settings: "paper" (every published setting), "default" or "quick" (two CPU cores).
        prompts: What the images are to show, see `resolve_prompts`; None for "bns", "pse" without prompts and the
            controls.
        device: Where to compute, by default where the model is.
        progress: Called with the iterations done and their number; "auto" shows a bar on a terminal, None shows
            nothing.
        checkpoint: Files that begin with this path keep the state, every few seconds at first and every half minute
            later. A call with the same arguments resumes where it stopped and ends with the same images. Remove the
            files after saving the result (`remove_checkpoints`).
        **settings: Fields of `SynthesisConfig` to replace, such as `images=64`, `iterations=100` or `seed=1`.

    Returns:
        The images, normalized for the model, with their prompts and provenance.

    Raises:
        SettingError: A setting cannot be used, there are prompts for a method without any, or the method cannot serve
            the image tower.
        DataError: The prompts cannot be used.
    """
    config = synthesis_config(method, preset, settings)
    config = for_towers(config, clip)
    if prompts is not None and not config.needs.prompts:
        raise SettingError(f"There are prompts, but {config.method!r} makes images without any; leave them out.")
    started = time.perf_counter()
    provenance: dict[str, Any] = {
        "method": config.method,
        "seed": config.seed,
        "config": asdict(config),
        "model": model_record(clip),
        "mean": list(clip.config.mean),
        "std": list(clip.config.std),
        "versions": {"d4c": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    with reporting(progress, f"synthesize {config.method}") as report:
        if METHODS[config.method].losses is None:
            images = paint(clip, config, report)
        else:
            texts = resolve_prompts(prompts) if config.needs.prompts else ()
            images = optimize(working_copy(clip, device), config, texts, provenance, report, checkpoint)
    record = {**provenance, **images.provenance, "seconds": round(time.perf_counter() - started, 3)}
    image_prompts = tuple(images.texts[target] if target >= 0 else "" for target in images.targets.tolist())
    return CalibrationSet(images.pixels, image_prompts, images.targets, images.texts, record, images.boxes)


def for_towers(config: SynthesisConfig, clip: CLIP) -> SynthesisConfig:
    """Return the settings for the towers that a model has; raises SettingError for a method that cannot serve them."""
    clip.require(("image",), "Synthesis", "quantize it without images, with prompts alone")
    method = METHODS[config.method]
    if config.needs.prompts and "text" not in clip.towers:
        if not method.alone:
            clip.require(TOWERS, f"The method {method.name!r}", "use 'pse', 'bns' for a ResNet, or 'leaves'")
        config = replace(config, **method.alone)  # type: ignore[arg-type]
    method.check(clip)
    return config


@dataclass(frozen=True)
class MethodResult:
    """The images of a method on the CPU: fields of a `CalibrationSet`, and the method's part of the provenance."""

    pixels: Tensor
    targets: Tensor
    texts: tuple[str, ...]
    boxes: Tensor | None
    provenance: dict[str, Any]


def paint(clip: CLIP, config: SynthesisConfig, progress: Progress) -> MethodResult:
    """Make the images of a method that paints them, on the CPU, so that they are the same for every device."""
    method, n = METHODS[config.method], config.images
    assert method.paint is not None, "methods that optimize do not paint"
    progress(0, n)
    pixels = method.paint(clip, n, torch.Generator().manual_seed(config.seed))
    progress(n, n)
    return MethodResult(pixels, torch.full((n,), -1), (), None, {"device": "cpu"})


def optimize(
    model: CLIP,
    config: SynthesisConfig,
    texts: tuple[str, ...],
    key: dict[str, Any],
    progress: Progress,
    checkpoint: str | Path | None,
) -> MethodResult:
    """Make the images of a method that optimizes them.

    Args:
        model: A working copy of the model, which is changed to be faster.
        config: The settings.
        texts: Candidates for the images' prompts.
        key: What the images depend on beyond the other arguments, for the checkpoint.
        progress: Called with the iterations done and their number.
        checkpoint: Beginning of the path of the checkpoint, if there is to be one.

    Returns:
        The images of all processes.
    """
    progress(0, config.iterations)
    config = replace(config, precision=resolve_precision(config.precision, model.device))
    provenance: dict[str, Any] = {"device": str(model.device), "precision": config.precision}
    rows = share(config.images, config.batch or config.inseparable)
    setup, start, generator = prepare(model, config, texts, config.seed)
    speed_up(model, config)
    loop = Loop(model, config, setup, start, generator, rows)
    file = None if checkpoint is None else Path(f"{checkpoint}.{rows.start}")
    with reproducible(config.precision):
        finish(loop, file, {**key, **provenance, "texts": texts, "rows": [rows.start, rows.stop]}, progress)
    pixels = join(loop.images, rows, config.images)
    losses = sum_of_processes(loop.history * (len(loop.images) / config.images))
    provenance |= {"batch": loop.config.batch or len(loop.images), "processes": rank_and_count()[1]}
    provenance["threads"] = torch.get_num_threads() if model.device.type == "cpu" else None
    if config.needs.prompts:
        provenance["recognized"] = recognized(model, loop.config, setup, pixels)
    provenance["loss"] = thin(losses)
    boxes = None if setup.boxes is None else setup.boxes.cpu()
    return MethodResult(pixels.cpu(), setup.targets.cpu(), texts, boxes, provenance)


def finish(loop: Loop, file: Path | None, key: dict[str, Any], progress: Progress) -> None:
    """Run a loop to its end; resume from a checkpoint in `file` and keep it up to date, if there is to be one."""
    checkpoint = None if file is None else Checkpoint(file, key)
    if checkpoint is not None:
        checkpoint.restore(loop)

    def watch() -> None:
        progress(loop.done, loop.config.iterations)
        if checkpoint is not None:
            checkpoint.save_if_due(loop)

    if len(loop.images):
        loop.run(watch)


@torch.no_grad()
def recognized(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor) -> dict[str, float]:
    """Return the share of images whose nearest prompt is their target, for the "image" and for its "foreground" box."""
    views = {"image": images}
    if setup.window is not None:
        views["foreground"] = crop(images, setup.window)
    shares = {}
    for name, pixels in views.items():
        features = torch.cat([encode(clip, pixels[rows]) for rows in chunks(len(images), config)])
        nearest = (F.normalize(features, dim=-1) @ setup.texts.T).argmax(-1)
        shares[name] = float((nearest == setup.targets).float().mean())
    return shares


def thin(losses: Tensor, most: int = 100) -> list[list[float]]:
    """Keep about `most` pairs of [iteration, loss] at even distances over a run, including the first and the last."""
    values = losses.tolist()
    kept = sorted({round(k * (len(values) - 1) / most) for k in range(most + 1)})
    return [[step + 1, round(values[step], 5)] for step in kept]
