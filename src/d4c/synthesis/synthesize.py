"""`synthesize`: calibration images from a CLIP alone."""

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
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
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

    The same seed, settings and device give the same images, bit for bit. How many go through the tower at once
    (`batch`), and on a CPU the number of threads, only round float sums in another way; the provenance has both. Under
    torchrun, after `torch.distributed.init_process_group`, each process makes its share and all return the whole set:
    the images of one process, bit for bit if that has the same `batch` and threads and every share is a multiple of it.

    Args:
        clip: the model. It runs where it is, or as a copy on `device`, and is not changed.
        method: "d4c" (the published method), its ablations "pgsi", "pgsi+scg" and "pgsi+pae", one of the baselines
            "bns" (BatchNorm statistics, ResNets only) and "pse" (patch-similarity entropy, transformers only), or one
            of the controls that ask nothing of the model: "noise", "pink", "leaves"; or a record of all settings.
        preset: "paper" (every published setting), "default" or "quick" (two CPU cores), where the settings start that
            are not given one by one.
        prompts: what the images are to show, see `resolve_prompts`; "bns", the published form of "pse" and the
            controls ignore them.
        device: where to compute, if not where the model is.
        progress: called with (iterations done, all); "auto" shows a bar on a terminal, None shows nothing.
        checkpoint: files that begin with this path keep what is done, every few seconds at first and every half
            minute later. A call with the same arguments resumes there and ends with the same images; remove the files
            after saving the result (`remove_checkpoints`).
        **settings: fields of `SynthesisConfig` to replace, such as `images=64`, `iterations=100` or `seed=1`.

    Returns:
        The images, normalized for the model, with their prompts and provenance.

    Raises:
        SettingError: for a setting that cannot be used, and a tower that the method cannot serve.
        DataError: for prompts that cannot be used.
    """
    config = synthesis_config(method, preset, settings)
    METHODS[config.method].check(clip)
    started = time.perf_counter()
    provenance: dict[str, Any] = {
        "method": config.method,
        "seed": config.seed,
        "config": asdict(config),
        "model": {"name": clip.name, "sha256": model_hash(clip)},
        "mean": list(clip.config.mean),
        "std": list(clip.config.std),
        "versions": {"d4c": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    with reporting(progress, f"synthesize {config.method}") as report:
        if METHODS[config.method].losses is None:
            made = paint(clip, config, report)
        else:
            texts = resolve_prompts(prompts) if config.needs.prompts else ()
            made = optimize(working_copy(clip, device), config, texts, provenance, report, checkpoint)
    record = {**provenance, **made.provenance, "seconds": round(time.perf_counter() - started, 3)}
    chosen = tuple(made.texts[target] if target >= 0 else "" for target in made.targets.tolist())
    return CalibrationSet(made.pixels, chosen, made.targets, made.texts, record, made.boxes)


@dataclass(frozen=True)
class Made:
    """What a method made, on the CPU: the fields of a `CalibrationSet`, and its own part of the provenance."""

    pixels: Tensor
    targets: Tensor
    texts: tuple[str, ...]
    boxes: Tensor | None
    provenance: dict[str, Any]


def paint(clip: CLIP, config: SynthesisConfig, progress: Progress) -> Made:
    """Images of a method that paints them, made on the CPU so that they are the same for every device."""
    method, n = METHODS[config.method], config.images
    assert method.paint is not None, "methods that optimize do not paint"
    progress(0, n)
    pixels = method.paint(clip, n, torch.Generator().manual_seed(config.seed))
    progress(n, n)
    return Made(pixels, torch.full((n,), -1), (), None, {"device": "cpu"})


def optimize(
    model: CLIP,
    config: SynthesisConfig,
    texts: tuple[str, ...],
    key: dict[str, Any],
    progress: Progress,
    checkpoint: str | Path | None,
) -> Made:
    """Images of a method that optimizes them, with a working copy of the model, which becomes faster on the way.

    `key` is what the caller knows that the images depend on, for the checkpoint.
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
    return Made(pixels.cpu(), setup.targets.cpu(), texts, boxes, provenance)


def finish(loop: Loop, file: Path | None, key: dict[str, Any], progress: Progress) -> None:
    """Run a loop to its end, from and with a checkpoint in `file` if it is given."""
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
    """Share of images whose nearest prompt is their target: of the whole "image", and of the "foreground" if boxed."""
    views = {"image": images}
    if setup.window is not None:
        views["foreground"] = crop(images, setup.window)
    out = {}
    for name, pixels in views.items():
        features = torch.cat([encode(clip, pixels[rows]) for rows in chunks(len(images), config)])
        nearest = (F.normalize(features, dim=-1) @ setup.texts.T).argmax(-1)
        out[name] = float((nearest == setup.targets).float().mean())
    return out


def thin(losses: Tensor, most: int = 100) -> list[list[float]]:
    """About `most` pairs of [iteration, loss] spread over a run, the first and the last among them."""
    values = losses.tolist()
    kept = sorted({round(k * (len(values) - 1) / most) for k in range(most + 1)})
    return [[step + 1, round(values[step], 5)] for step in kept]
