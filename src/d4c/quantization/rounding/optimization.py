"""Learning the rounding and the activation scales of one unit against the float model (AdaRound, BRECQ, QDrop)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.compiled import Repeated
from d4c.progress import Interval, Progress, silent
from d4c.quantization.quantized_layers import ActivationQuantizer, QuantizedLayer
from d4c.quantization.rounding.adaround import SoftRounding
from d4c.quantization.rounding.config import ReconstructionConfig

REPORT_EVERY = 0.5
"""Seconds between two reports of how many steps are done."""
TEMPERATURE = 1000.0
"""At the end, the offset between two codes at which a weight is still soft is a thousandth of that at the start."""


@dataclass
class Unit:
    """Layers that are optimized together: `forward` maps a batch of `inputs` to what `targets` holds.

    `live` [N, L] marks the positions that count, where some do not; `importance`, which broadcasts with
    a batch of targets, weighs squared errors. The samples may lie in host memory while the layers are on a GPU.
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
    """Learn rounding and activation scales of one unit, then fix its integer weights; `progress` counts steps."""
    checked = config.annealing == "temperature"
    before = _error(unit, config) if checked else torch.inf
    codes, scales = [layer.codes.clone() for layer in unit.layers], [q.scale.detach().clone() for q in unit.quantizers]
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
    if checked and not _error(unit, config) < before:
        for layer, old in zip(unit.layers, codes, strict=True):
            layer.set_codes(old)
        for quantizer, scale in zip(unit.quantizers, scales, strict=True):
            quantizer.scale.copy_(scale)


@torch.no_grad()
def _error(unit: Unit, config: ReconstructionConfig) -> float:
    """Mean loss over all samples, a batch at a time."""
    batches = torch.arange(len(unit.inputs)).split(config.batch_size)
    return sum(len(b) * float(squared_error(unit, config, *samples(unit, b))) for b in batches) / len(unit.inputs)


def samples(unit: Unit, which: Tensor) -> list[Tensor]:
    """Inputs and targets of some samples, and their live positions where that matters, on the layers' device."""
    caches = (unit.inputs, unit.targets, unit.live)
    return [cache[which.to(cache.device)].to(unit.layers[0].weight.device) for cache in caches if cache is not None]


def squared_error(
    unit: Unit, config: ReconstructionConfig, inputs: Tensor, targets: Tensor, live: Tensor | None = None
) -> Tensor:
    """What a unit makes of some inputs against the targets."""
    error = (unit.forward(inputs) - targets).square()
    if unit.importance is not None:
        error = error * unit.importance
    if live is not None:
        return (error * live[..., None]).sum() / (live.sum() * error.shape[-1])
    return error.sum(1).mean() if config.annealing == "published" else error.mean()


class _Loop:
    """The optimization of one unit; every schedule is a table on the device, so that a step can be captured."""

    def __init__(
        self, unit: Unit, roundings: list[SoftRounding], config: ReconstructionConfig, scale_lr: float
    ) -> None:
        self.unit, self.roundings, self.config = unit, roundings, config
        self.device = roundings[0].alpha.device
        steps = config.iterations
        done = torch.arange(steps) / steps
        after = ((done - config.warmup) / (1 - config.warmup)).clamp(min=0)
        beta = config.beta_start + (config.beta_end - config.beta_start) * after
        rounding = torch.where(done < config.warmup, 0.0, config.rounding_weight)
        cosine = 0.5 * (1 + torch.cos(torch.pi * done))
        published = config.annealing == "published"
        # The last steps are at the end's temperature, where the scales settle on decided weights.
        temperature = torch.ones(steps) if published else TEMPERATURE ** (after / 0.95).clamp(max=1)
        self.tables = torch.stack([beta, rounding, cosine, temperature], 1).to(self.device)
        self.choices = torch.randint(len(unit.inputs), (steps, config.batch_size)).to(unit.inputs.device)
        self.batch = samples(unit, self.choices[0])
        self.step_index = torch.zeros(1, dtype=torch.long, device=self.device)
        on_gpu = self.device.type == "cuda"
        self.rounding_lr = torch.tensor(config.rounding_lr, device=self.device)
        groups: list[dict[str, object]] = [{"params": [r.alpha for r in roundings], "lr": self.rounding_lr}]
        self.scale_lrs: list[tuple[Tensor, Tensor]] = []
        for quantizer in unit.quantizers:
            quantizer.scale.requires_grad_(True)
            unit_lr = torch.ones((), device=self.device) if config.absolute_scales else quantizer.scale.detach().mean()
            lr = torch.zeros((), device=self.device)
            self.scale_lrs.append((lr, unit_lr * scale_lr))
            groups.append({"params": [quantizer.scale], "lr": lr})
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=on_gpu)

    def step(self) -> None:
        beta, weight, cosine, temperature = self.tables.index_select(0, self.step_index)[0].unbind()
        for lr, start in self.scale_lrs:
            lr.copy_(start * cosine)
        # A step moves T alpha by T times as much.
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
        """All steps, with their number about twice a second."""
        repeat, reports = Repeated(self.step, self.device), Interval(REPORT_EVERY)
        for done, choice in enumerate(self.choices, 1):
            for buffer, batch in zip(self.batch, samples(self.unit, choice), strict=True):
                buffer.copy_(batch)  # a captured step reads the same memory each time
            repeat()
            if reports.passed():
                progress(done, len(self.choices))
