"""`synthesize`: calibration images from a CLIP alone."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

import d4c
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.identity import model_hash
from d4c.synthesis.calibration import CalibrationSet
from d4c.synthesis.config import MODEL_FREE, SynthesisConfig, resolve_config
from d4c.synthesis.contrast import contrastive_losses
from d4c.synthesis.encode import encode
from d4c.synthesis.natural import dead_leaves, gaussian_noise, pink_noise
from d4c.synthesis.optimizer import CoastingAdam
from d4c.synthesis.prompts import resolve_prompts
from d4c.synthesis.setup import Setup, normalise, prepare
from d4c.synthesis.similarity import similarity_losses
from d4c.synthesis.statistics import statistics_losses
from d4c.synthesis.views import Draws, crop, draw_step

Progress = Callable[[int, int], None]

CHECK_EVERY = 25
"""Iterations between looks at the loss and calls of `progress`: a look waits for the device."""


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
    **overrides: Any,
) -> CalibrationSet:
    """Make calibration images for a CLIP without any data.

    `method` is one of "d4c" (the published method), its ablations "pgsi", "pgsi+scg" and "pgsi+pae", one of the
    baselines "bns" (BatchNorm statistics, ResNets only) and "pse" (patch-similarity entropy, transformers only), or
    one of the controls that ask nothing of the model: "noise", "pink", "leaves". `preset` is "paper" (every
    published setting), "default" or "quick" (two CPU cores); `images`, `iterations` and any field of
    `SynthesisConfig` override it. `prompts` are described at `resolve_prompts`; "bns", the published form of "pse"
    and the controls ignore them. The model runs where it is, or as a copy on `device`; it is not changed. `progress`
    is called with (iterations done, all) now and then.

    The same seed, settings and device give the same images, whatever `batch` is, up to the rounding of float sums.
    Raises SettingError for a setting and DataError for prompts that cannot be used.
    """
    config = resolve_config(method, preset, {"images": images, "iterations": iterations, **overrides})
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise SettingError(f"the seed is {seed!r}, expected an integer from 0 to 2^63 - 1.")
    started = time.perf_counter()
    texts: tuple[str, ...] = ()
    targets = torch.full((config.images,), -1)
    provenance: dict[str, Any] = {
        "method": method,
        "preset": preset,
        "seed": seed,
        "config": asdict(config),
        "model": {"name": clip.name, "sha256": model_hash(clip)},
        "mean": list(clip.config.mean),
        "std": list(clip.config.std),
        "versions": {"d4c": d4c.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if method in MODEL_FREE:
        pixels = model_free(clip, config, seed)
        provenance["device"] = "cpu"
    else:
        texts = resolve_prompts(prompts) if config.prompted else ()
        with ready(clip, device) as model:
            setup, start, generator = prepare(model, config, texts, seed)
            pixels, losses = optimise(model, config, setup, start, generator, progress)
            targets = setup.targets.cpu()
            if config.prompted:
                provenance["recognised"] = recognised(model, config, setup, pixels)
            provenance["device"] = str(model.device)
        provenance["loss"] = thin(losses)
        pixels = pixels.cpu()
    provenance["seconds"] = round(time.perf_counter() - started, 3)
    chosen = tuple(texts[target] if target >= 0 else "" for target in targets.tolist())
    return CalibrationSet(pixels, chosen, targets, texts, provenance)


def model_free(clip: CLIP, config: SynthesisConfig, seed: int) -> Tensor:
    """The controls, made on the CPU so that they are the same for every device: [N, 3, S, S], normalised."""
    generator = torch.Generator().manual_seed(seed)
    n, size = config.images, clip.image_size
    if config.method == "noise":
        return gaussian_noise(n, size, generator)
    make = pink_noise if config.method == "pink" else dead_leaves
    return normalise(clip, make(n, size, generator))


@contextmanager
def ready(clip: CLIP, device: str | torch.device | None) -> Iterator[CLIP]:
    """The model, or a copy on `device`, in evaluation mode and without weight gradients; restored afterwards."""
    try:
        model = clip if device is None or torch.device(device) == clip.device else copy.deepcopy(clip).to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"device {str(device)!r} cannot be used ({reason}); use 'cpu'.") from None
    training = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield model.eval().requires_grad_(False)
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter in trained:
            parameter.requires_grad_(True)


def optimise(
    clip: CLIP,
    config: SynthesisConfig,
    setup: Setup,
    start: Tensor,
    generator: Generator,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """The optimised images [N, 3, S, S] and the mean loss of each iteration [iterations]."""
    images = start.clone()
    groups = setup.group if config.optimizer == "shared" else torch.zeros_like(setup.group)
    adam = CoastingAdam(images, groups, config.iterations, config.lr)
    black, white = (normalise(clip, make(3, 1, 1, device=images.device)) for make in (torch.zeros, torch.ones))
    history = torch.zeros(config.iterations, device=images.device)
    for i in range(config.iterations):
        draws = draw_step(len(images), clip.image_size, config, generator)
        losses, gradient = evaluate_step(clip, config, setup, images, draws)
        adam.step(gradient)
        if config.psaq:
            images.clamp_(black, white)
        history[i] = losses.mean()
        done = i + 1
        if done % CHECK_EVERY == 0 or done == config.iterations:
            if not bool(history[:done].isfinite().all()):
                raise SettingError(
                    f"the synthesis loss is no longer finite within {done} iterations; lower lr (now {config.lr}) or "
                    "check the model."
                )
            if progress is not None:
                progress(done, config.iterations)
    return images, history


def chunks(n: int, config: SynthesisConfig) -> Iterator[slice]:
    """Ranges of images that go through the tower together: whole groups, so that negatives stay together."""
    size = config.batch or n
    for begin in range(0, n, size):
        yield slice(begin, begin + size)


def evaluate_step(
    clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Loss of each image [N], and the gradient of the sum over groups of each group's mean loss [N, 3, S, S]."""
    losses: list[Tensor] = []
    gradients: list[Tensor] = []
    try:
        for rows in chunks(len(images), config):
            part = images[rows].detach().requires_grad_()
            loss = image_losses(clip, config, setup[rows], part, draws[rows])
            gradients += torch.autograd.grad((loss * setup.weight[rows]).sum(), part)
            losses.append(loss.detach())
    except torch.cuda.OutOfMemoryError:
        size = min(config.batch or len(images), len(images))
        advice = f"set batch to a smaller multiple of {config.group_size}"
        if config.inseparable > config.group_size:
            advice = f'set statistics to "batch" and batch to a multiple of {config.group_size}'
        raise SettingError(f"the device has not enough memory for {size} images at once; {advice}.") from None
    return torch.cat(losses), torch.cat(gradients)


def image_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """What the method minimises, for each image [N]."""
    losses = {"bns": statistics_losses, "pse": similarity_losses}.get(config.method, contrastive_losses)
    return losses(clip, config, setup, images, draws)


@torch.no_grad()
def recognised(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor) -> dict[str, float]:
    """Share of images whose nearest prompt is their target: of the whole "image", and of the "foreground" if boxed."""
    views = {"image": images}
    if setup.boxes is not None:
        views["foreground"] = crop(images, setup.boxes)
    out = {}
    for name, pixels in views.items():
        features = torch.cat([encode(clip, pixels[rows], config) for rows in chunks(len(images), config)])
        nearest = (F.normalize(features, dim=-1) @ setup.texts.T).argmax(-1)
        out[name] = float((nearest == setup.targets).float().mean())
    return out


def thin(losses: Tensor, most: int = 100) -> list[list[float]]:
    """About `most` pairs of [iteration, loss] spread over a run, the first and the last among them."""
    values = losses.tolist()
    places = sorted({round(k * (len(values) - 1) / most) for k in range(most + 1)})
    return [[place + 1, round(values[place], 5)] for place in places]
