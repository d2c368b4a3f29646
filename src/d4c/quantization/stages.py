"""A tower as a chain of stages, which is measured and rebuilt from front to back on cached states.

A state is what a stage hands to the next one, for all samples at once: [N, L, C] in a transformer, [N, C, H, W] in a
ResNet, embeddings [N, D] at the end. The first stage reads the pixels or tokens themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d4c.models.anatomy import PublishedUnit
from d4c.models.anatomy import Stage as TowerStage
from d4c.models.clip import CLIP


@dataclass(frozen=True)
class Stage:
    """A stage of one tower, which names it and its layers as the whole CLIP does."""

    tower: str
    step: TowerStage

    @property
    def name(self) -> str:
        """Name in the CLIP, such as "image.blocks.3"."""
        return f"{self.tower}.{self.step.name}"

    @property
    def reads_inputs(self) -> bool:
        """Whether the stage needs the pixels or tokens in addition to the state."""
        return self.step.reads_inputs

    @property
    def published_unit(self) -> PublishedUnit:
        """What the published method learns as one in this stage: a layer or the whole block."""
        return self.step.published_unit

    def run(self, clip: CLIP, state: Tensor, inputs: Tensor) -> Tensor:
        """The state after this stage, from the state before it and the pixels or tokens of the same samples."""
        return self.step.run(clip.tower(self.tower), state, inputs)

    def owns(self, layer: str) -> bool:
        """Whether a layer, by its name in the CLIP, runs in this stage."""
        tower, _, name = layer.partition(".")
        return tower == self.tower and self.step.owns(name)


def stages(clip: CLIP, tower: str) -> list[Stage]:
    """The embedding, the blocks and the head of tower "image" or "text", in order."""
    return [Stage(tower, step) for step in clip.tower(tower).stages()]


def _batches(clip: CLIP, state: Tensor, inputs: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """States before a stage, and the pixels or tokens of the same samples, a batch at a time on the model's device."""
    for x, batch_inputs in zip(state.split(batch), inputs.split(batch), strict=True):
        yield x.to(clip.device), batch_inputs.to(clip.device)


@torch.no_grad()
def run_stage(stage: Stage, clip: CLIP, state: Tensor, inputs: Tensor, batch: int = 64) -> Tensor:
    """Run all samples through a stage.

    Args:
        stage: A stage of `clip`.
        clip: The model, float or quantized.
        state: What the stage before gives for N samples, on any device.
        inputs: Pixels or tokens of the same samples.
        batch: Samples on the model's device at a time.

    Returns:
        The state after the stage, on the device of `state`.
    """
    parts = [
        stage.run(clip, x, batch_inputs).to(state.device) for x, batch_inputs in _batches(clip, state, inputs, batch)
    ]
    return torch.cat(parts)


class _Recorded(Exception):
    """Ends a stage once the input of a module is recorded."""


@torch.no_grad()
def record_input(stage: Stage, clip: CLIP, module: nn.Module, state: Tensor, inputs: Tensor, batch: int = 64) -> Tensor:
    """The first input of a module inside a stage for all samples; nothing after the module is computed."""
    recorded: list[Tensor] = []

    def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        recorded.append(args[0].to(state.device))
        raise _Recorded

    handle = module.register_forward_pre_hook(record)
    try:
        for x, batch_inputs in _batches(clip, state, inputs, batch):
            with suppress(_Recorded):
                stage.run(clip, x, batch_inputs)
    finally:
        handle.remove()
    return torch.cat(recorded)


def record_output(stage: Stage, clip: CLIP, module: nn.Module, state: Tensor, inputs: Tensor) -> Tensor:
    """The output of a module inside a stage for all samples."""
    recorded: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, y: recorded.append(y.to(state.device)))
    try:
        run_stage(stage, clip, state, inputs)
    finally:
        handle.remove()
    return torch.cat(recorded)
