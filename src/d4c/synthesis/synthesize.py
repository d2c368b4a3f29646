"""`synthesize`: calibration images from a CLIP alone."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.calibration.images import CalibrationSet
from d4c.calibration.natural import dead_leaves, gaussian_noise, pink_noise
from d4c.calibration.prompts import resolve_prompts
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.progress import Progress
from d4c.synthesis.config import MODEL_FREE, SynthesisConfig, resolve_config
from d4c.synthesis.loop import Loop, chunks
from d4c.synthesis.resume import Checkpoint
from d4c.synthesis.setup import Setup, prepare
from d4c.synthesis.shards import join, place, share, total
from d4c.synthesis.tower.encode import encode
from d4c.synthesis.tower.working import reproducible, resolve_precision, speed_up, working_copy
from d4c.synthesis.views import crop
from d4c.version import __version__


def synthesize(
    clip: CLIP,
    method: str = "d4c",
    preset: str = "quick",
    *,
    prompts: Sequence[str] | str | Path | None = None,
    images: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    **overrides: Any,
) -> CalibrationSet:
    """Make calibration images for a CLIP without any data.

    `method` is one of "d4c" (the published method), its ablations "pgsi", "pgsi+scg" and "pgsi+pae", one of the
    baselines "bns" (BatchNorm statistics, ResNets only) and "pse" (patch-similarity entropy, transformers only), or
    one of the controls that ask nothing of the model: "noise", "pink", "leaves". `preset` is "paper" (every
    published setting), "default" or "quick" (two CPU cores); `images`, `iterations` and any field of
    `SynthesisConfig` override it. `prompts` are described at `resolve_prompts`; "bns", the published form of "pse"
    and the controls ignore them. The model runs where it is, or as a copy on `device`; it is not changed. `progress`
    is called with (iterations done, all) now and then. Files that begin with `checkpoint` keep what is done every
    half minute: a call with the same arguments goes on there and ends with the same images; remove them behind it.

    The same seed, settings and device give the same images, bit for bit. How many go through the tower at once
    (`batch`), and on a CPU the number of threads, only round float sums in another way; the provenance has both. Under
    torchrun, behind `torch.distributed.init_process_group`, each process makes its share and all return the whole set:
    the images of one process, bit for bit if that has the same `batch` and threads and every share is a multiple of it.
    Raises SettingError for a setting and DataError for prompts that cannot be used.
    """
    config = resolve_config(method, preset, {"images": images, "iterations": iterations, **overrides})
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise SettingError(f"the seed is {seed!r}, expected an integer from 0 to 2^63 - 1.")
    started = time.perf_counter()
    texts: tuple[str, ...] = ()
    targets = torch.full((config.images,), -1)
    boxes: Tensor | None = None
    provenance: dict[str, Any] = {
        "method": method,
        "preset": preset,
        "seed": seed,
        "config": asdict(config),
        "model": {"name": clip.name, "sha256": model_hash(clip)},
        "mean": list(clip.config.mean),
        "std": list(clip.config.std),
        "versions": {"d4c": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if method in MODEL_FREE:
        pixels = model_free(clip, config, seed)
        provenance["device"] = "cpu"
    else:
        texts = resolve_prompts(prompts) if config.prompted else ()
        model = working_copy(clip, device)
        config = replace(config, precision=resolve_precision(config.precision, model.device))
        provenance |= {"device": str(model.device), "precision": config.precision}
        rows = share(config.images, config.batch or config.inseparable)
        setup, start, generator = prepare(model, config, texts, seed)
        speed_up(model, config)
        loop = Loop(model, config, setup, start, generator, rows)
        file = None if checkpoint is None else Path(f"{checkpoint}.{rows.start}")
        with reproducible(config.precision):
            finish(loop, file, {**provenance, "texts": texts, "rows": [rows.start, rows.stop]}, progress)
        pixels = join(loop.images, rows, config.images)
        losses = total(loop.history * (len(loop.images) / config.images))
        provenance |= {"batch": loop.config.batch or len(loop.images), "processes": place()[1]}
        provenance["threads"] = torch.get_num_threads() if model.device.type == "cpu" else None
        targets = setup.targets.cpu()
        boxes = None if setup.boxes is None else setup.boxes.cpu()
        if config.prompted:
            provenance["recognized"] = recognized(model, loop.config, setup, pixels)
        provenance["loss"] = thin(losses)
        pixels = pixels.cpu()
    provenance["seconds"] = round(time.perf_counter() - started, 3)
    chosen = tuple(texts[target] if target >= 0 else "" for target in targets.tolist())
    return CalibrationSet(pixels, chosen, targets, texts, provenance, boxes)


def finish(loop: Loop, file: Path | None, key: dict[str, Any], progress: Progress | None) -> None:
    """Run a loop to its end, from and with a checkpoint in `file` if it is given."""
    checkpoint = None if file is None else Checkpoint(file, key)
    if checkpoint is not None:
        checkpoint.restore(loop)

    def watch() -> None:
        if progress is not None:
            progress(loop.done, loop.config.iterations)
        if checkpoint is not None:
            checkpoint.save_now_and_then(loop)

    if len(loop.images):
        loop.run(watch)


def model_free(clip: CLIP, config: SynthesisConfig, seed: int) -> Tensor:
    """The controls, made on the CPU so that they are the same for every device: [N, 3, S, S], normalized."""
    generator = torch.Generator().manual_seed(seed)
    n, size = config.images, clip.image_size
    if config.method == "noise":
        return gaussian_noise(n, size, generator)
    make = pink_noise if config.method == "pink" else dead_leaves
    return clip.normalize(make(n, size, generator))


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
    places = sorted({round(k * (len(values) - 1) / most) for k in range(most + 1)})
    return [[place + 1, round(values[place], 5)] for place in places]
