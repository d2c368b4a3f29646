"""Learns the rounding and the activation scales of one unit against the float model.

Rounding follows AdaRound (arXiv 2004.10568), units BRECQ (arXiv 2102.05426), dropped quantization QDrop
(arXiv 2203.05740).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.compiled import Repeated
from d4c.progress import Interval, Progress, silent
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.rounding.adaround import SoftRounding
from d4c.quantization.rounding.config import ReconstructionConfig

REPORT_EVERY = 0.5
"""Seconds between two reports of the steps done."""
TEMPERATURE = 1000.0
"""Temperature of the last steps, at which a weight is soft in a thousandth of the interval of the first step."""


@dataclass
class Unit:
    """Layers that are optimized together.

    The samples may be in host memory while the layers are on a GPU.

    Attributes:
        layers: The layers whose rounding is learned.
        quantizers: The activation quantizers whose scales are learned.
        forward: Maps a batch of `inputs` to outputs that should be the `targets`.
        inputs: Inputs of N samples in the quantized model.
        targets: Outputs of the same samples in the float model.
        live: Boolean [N, L] of the positions that count, or None if all do.
        importance: Weights of squared errors, which broadcast to a batch of targets; None for equal weights.
    """

    layers: list[QuantizedLayer]
    quantizers: list[ActivationQuantizer]
    forward: Callable[[Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    live: Tensor | None = None
    importance: Tensor | None = None


@torch.enable_grad()
def optimize(unit: Unit, config: ReconstructionConfig, scale_lr: float, seed: int, progress: Progress = silent) -> None:
    """Learn the rounding and the activation scales of a unit, then set its integer weights, in place.

    Annealed by temperature, a unit keeps its weights and scales if learning does not lower its error.

    Args:
        unit: The unit, with its ranges chosen.
        config: How it is optimized.
        scale_lr: Learning rate of activation scales.
        seed: Seed of the batches and of what is dropped.
        progress: Called with the steps done and their number.
    """
    checked = config.annealing == "temperature"
    initial_error = _error(unit, config) if checked else torch.inf
    initial_codes = [layer.codes.clone() for layer in unit.layers]
    initial_scales = [quantizer.scale.detach().clone() for quantizer in unit.quantizers]
    device = unit.layers[0].weight.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        roundings = [SoftRounding(layer, layer.source_weight()) for layer in unit.layers]
        try:
            loop = _Loop(unit, roundings, config, scale_lr)
            for layer, rounding in zip(unit.layers, roundings, strict=True):
                layer.soft_weight = rounding
            for quantizer in unit.quantizers:
                quantizer.drop = config.drop
            loop.run(progress)
        finally:
            for quantizer in unit.quantizers:
                quantizer.drop = 0.0
                quantizer.scale.requires_grad_(False).clamp_(min=torch.finfo(torch.float32).tiny)
            for layer in unit.layers:
                layer.soft_weight = None
    for layer, rounding in zip(unit.layers, roundings, strict=True):
        layer.set_codes(rounding.codes())
    if checked and not _error(unit, config) < initial_error:
        for layer, codes in zip(unit.layers, initial_codes, strict=True):
            layer.set_codes(codes)
        for quantizer, scale in zip(unit.quantizers, initial_scales, strict=True):
            quantizer.scale.copy_(scale)


@torch.no_grad()
def _error(unit: Unit, config: ReconstructionConfig) -> float:
    """The mean of `squared_error` over all samples."""
    batches = torch.arange(len(unit.inputs)).split(config.batch_size)
    return sum(len(b) * float(squared_error(unit, config, *samples(unit, b))) for b in batches) / len(unit.inputs)


def samples(unit: Unit, which: Tensor) -> list[Tensor]:
    """Inputs, targets and live positions (if some are not) of samples by index, on the device of the layers."""
    caches = (unit.inputs, unit.targets, unit.live)
    return [cache[which.to(cache.device)].to(unit.layers[0].weight.device) for cache in caches if cache is not None]


def squared_error(
    unit: Unit, config: ReconstructionConfig, inputs: Tensor, targets: Tensor, live: Tensor | None = None
) -> Tensor:
    """The mean squared error of a unit on a batch, weighted by importance.

    With published annealing and no `live`, squared errors are summed over dimension 1 and averaged over the others.

    Args:
        unit: The unit.
        config: Its `annealing` decides between mean and sum.
        inputs: Inputs of a batch.
        targets: Outputs of the float model for the batch.
        live: Boolean [n, L] of the positions that count, or None if all do.
    """
    error = (unit.forward(inputs) - targets).square()
    if unit.importance is not None:
        error = error * unit.importance
    if live is not None:
        return (error * live[..., None]).sum() / (live.sum() * error.shape[-1])
    return error.sum(1).mean() if config.annealing == "published" else error.mean()


def _schedule(config: ReconstructionConfig) -> Tensor:
    """Beta, weight of the regularizer, factor of the scales' learning rates and temperature of each step [steps, 4]."""
    steps = config.iterations
    done = torch.arange(steps) / steps
    after_warmup = ((done - config.warmup) / (1 - config.warmup)).clamp(min=0)
    beta = config.beta_start + (config.beta_end - config.beta_start) * after_warmup
    weight = torch.where(done < config.warmup, 0.0, config.rounding_weight)
    cosine = 0.5 * (1 + torch.cos(torch.pi * done))
    # The last steps are at the final temperature, where the scales settle on weights that are decided.
    temperature = TEMPERATURE ** (after_warmup / 0.95).clamp(max=1)
    if config.annealing == "published":
        temperature = torch.ones(steps)
    return torch.stack([beta, weight, cosine, temperature], 1)


class _Loop:
    """The optimization of one unit; schedules are a table on the device, so that a GPU can capture a step."""

    def __init__(
        self, unit: Unit, roundings: list[SoftRounding], config: ReconstructionConfig, scale_lr: float
    ) -> None:
        self.unit, self.roundings, self.config = unit, roundings, config
        self.device = roundings[0].alpha.device
        self.schedule = _schedule(config).to(self.device)
        self.choices = torch.randint(len(unit.inputs), (config.iterations, config.batch_size)).to(unit.inputs.device)
        self.batch = samples(unit, self.choices[0])
        self.step_index = torch.zeros(1, dtype=torch.long, device=self.device)
        on_gpu = self.device.type == "cuda"
        self.rounding_lr = torch.tensor(config.rounding_lr, device=self.device)
        groups: list[dict[str, object]] = [{"params": [r.alpha for r in roundings], "lr": self.rounding_lr}]
        self.scale_lrs: list[tuple[Tensor, Tensor]] = []
        for quantizer in unit.quantizers:
            quantizer.scale.requires_grad_(True)
            lr_unit = torch.ones((), device=self.device) if config.absolute_scales else quantizer.scale.detach().mean()
            lr = torch.zeros((), device=self.device)
            self.scale_lrs.append((lr, lr_unit * scale_lr))
            groups.append({"params": [quantizer.scale], "lr": lr})
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=on_gpu)

    def step(self) -> None:
        """One step of Adam; reads and writes only tensors, so that a GPU can replay it."""
        beta, weight, cosine, temperature = self.schedule.index_select(0, self.step_index)[0].unbind()
        for lr, initial_lr in self.scale_lrs:
            lr.copy_(initial_lr * cosine)
        # The weight depends on T alpha, which a step moves T times as far as alpha.
        self.rounding_lr.copy_(self.config.rounding_lr * temperature.rsqrt())
        for rounding in self.roundings:
            rounding.temperature.copy_(temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss = squared_error(self.unit, self.config, *self.batch)
        if self.config.annealing == "published":
            loss = loss + weight * torch.stack([r.regularizer(beta) for r in self.roundings]).sum()
        loss.backward()
        self.optimizer.step()
        self.step_index += 1

    def run(self, progress: Progress) -> None:
        """Take all steps and report how many are done about twice a second."""
        repeat, reports = Repeated(self.device), Interval(REPORT_EVERY)
        for done, choice in enumerate(self.choices, 1):
            for buffer, batch in zip(self.batch, samples(self.unit, choice), strict=True):
                buffer.copy_(batch)  # a captured step always reads the same memory
            repeat(self.step)
            if reports.passed():
                progress(done, len(self.choices))
