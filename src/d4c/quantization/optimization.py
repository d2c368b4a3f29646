"""Learning the rounding and the activation scales of one unit against the float model (AdaRound, BRECQ, QDrop)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from d4c.graphs import Repeated
from d4c.quantization.layers import ActivationQuantizer, QuantizedLayer
from d4c.quantization.rounding import SoftRounding

Importance = Literal["none", "gradient"]


@dataclass(frozen=True)
class ReconstructionConfig:
    """How each unit is optimised; the defaults are those of the deployable track.

    `loss="published"` sums squared errors over dimension 1, averages the rest and adds
    `rounding_weight` times the sum of the rounding regulariser. `loss="relative"` divides the squared error by
    that of rounding to nearest and averages the regulariser, so that one `rounding_weight` suits every unit.
    With `importance="gradient"` the tokens of an image count as `token_importance` says.
    With `closed_form_start`, GPTQ finds the weights that learned rounding starts from.
    Learning rates of activation scales are relative to the scale, or absolute with `absolute_scales`.
    """

    closed_form_start: bool = True
    iterations: int = 500
    batch_size: int = 32
    rounding_lr: float = 1e-2
    image_scale_lr: float = 1e-3
    text_scale_lr: float = 1e-3
    absolute_scales: bool = False
    rounding_weight: float = 1.0
    warmup: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    drop: float = 0.5
    loss: Literal["published", "relative"] = "relative"
    importance: Importance = "none"

    def shortened(self, iterations: int) -> ReconstructionConfig:
        """The same schedule in another number of steps, with learning rates by the root of the ratio.

        A rounding variable has to travel the same way in fewer steps; Adam's noise grows with the root.
        """
        ratio = (self.iterations / iterations) ** 0.5
        return replace(
            self,
            iterations=iterations,
            rounding_lr=self.rounding_lr * ratio,
            image_scale_lr=self.image_scale_lr * ratio,
            text_scale_lr=self.text_scale_lr * ratio,
        )


PAPER = ReconstructionConfig(
    closed_form_start=False,
    iterations=20000,
    rounding_lr=1e-3,
    image_scale_lr=4e-5,
    text_scale_lr=4e-6,
    absolute_scales=True,
    rounding_weight=0.01,
    drop=0.0,
    loss="published",
)


@dataclass
class Unit:
    """Layers that are optimised together: `forward` maps a batch of `inputs` to what `targets` holds.

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
def optimize(unit: Unit, config: ReconstructionConfig, scale_lr: float, seed: int) -> None:
    """Learn rounding and activation scales of one unit, then fix its integer weights."""
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
            loop.run()
        finally:
            for quantizer in unit.quantizers:
                quantizer.drop = 0.0
                quantizer.scale.requires_grad_(False).clamp_(min=torch.finfo(torch.float32).tiny)
            for layer in unit.layers:
                layer.soft_weight = None
    for layer, rounding in zip(unit.layers, roundings, strict=True):
        layer.set_codes(rounding.codes())


class _Loop:
    """The optimisation of one unit; every schedule is a table on the device, so that a step can be captured."""

    def __init__(
        self, unit: Unit, roundings: list[SoftRounding], config: ReconstructionConfig, scale_lr: float
    ) -> None:
        self.unit, self.roundings, self.config = unit, roundings, config
        self.device = roundings[0].alpha.device
        self.base = self._rounding_error() if config.loss == "relative" else torch.ones((), device=self.device)
        steps = config.iterations
        done = torch.arange(steps) / steps
        after = ((done - config.warmup) / (1 - config.warmup)).clamp(min=0)
        beta = config.beta_start + (config.beta_end - config.beta_start) * after
        rounding = torch.where(done < config.warmup, 0.0, config.rounding_weight)
        cosine = 0.5 * (1 + torch.cos(torch.pi * done))
        self.tables = torch.stack([beta, rounding, cosine], 1).to(self.device)
        self.choices = torch.randint(len(unit.inputs), (steps, config.batch_size)).to(unit.inputs.device)
        self.batch = self._samples(self.choices[0])
        self.step_index = torch.zeros(1, dtype=torch.long, device=self.device)
        on_gpu = self.device.type == "cuda"
        groups: list[dict[str, object]] = [{"params": [r.alpha for r in roundings], "lr": config.rounding_lr}]
        self.scale_lrs: list[tuple[Tensor, Tensor]] = []
        for quantizer in unit.quantizers:
            quantizer.scale.requires_grad_(True)
            unit_lr = torch.ones((), device=self.device) if config.absolute_scales else quantizer.scale.detach().mean()
            lr = torch.zeros((), device=self.device)
            self.scale_lrs.append((lr, unit_lr * scale_lr))
            groups.append({"params": [quantizer.scale], "lr": lr})
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=on_gpu)

    @torch.no_grad()
    def _rounding_error(self) -> Tensor:
        """Mean squared error of rounding to nearest, the yardstick of the relative loss."""
        total = torch.zeros((), device=self.device)
        size = self.config.batch_size
        count = 0
        for start in range(0, min(len(self.unit.inputs), 4 * size), size):
            total += self._squared_error(*self._samples(slice(start, start + size)))
            count += 1
        return (total / count).clamp(min=torch.finfo(torch.float32).tiny)

    def _samples(self, which: Tensor | slice) -> list[Tensor]:
        """Inputs and targets of some samples, and their live positions where that matters, on the layers' device."""
        caches = (self.unit.inputs, self.unit.targets, self.unit.live)
        return [cache[which].to(self.device) for cache in caches if cache is not None]

    def _squared_error(self, inputs: Tensor, targets: Tensor, live: Tensor | None = None) -> Tensor:
        error = (self.unit.forward(inputs) - targets).square()
        if self.unit.importance is not None:
            error = error * self.unit.importance
        if live is not None:
            return (error * live[..., None]).sum() / (live.sum() * error.shape[-1])
        return error.sum(1).mean() if self.config.loss == "published" else error.mean()

    def step(self) -> None:
        beta, weight, cosine = self.tables.index_select(0, self.step_index)[0].unbind()
        for lr, start in self.scale_lrs:
            lr.copy_(start * cosine)
        self.optimizer.zero_grad(set_to_none=True)
        penalty = torch.stack([r.regularizer(beta) for r in self.roundings]).sum()
        if self.config.loss == "relative":
            penalty = penalty / sum(r.alpha.numel() for r in self.roundings)
        loss = self._squared_error(*self.batch) / self.base + weight * penalty
        loss.backward()
        self.optimizer.step()
        self.step_index += 1

    def run(self) -> None:
        """All steps."""
        repeat = Repeated(self.step, self.device)
        for choice in self.choices:
            for buffer, samples in zip(self.batch, self._samples(choice), strict=True):
                buffer.copy_(samples)  # a captured step reads the same memory each time
            repeat()
