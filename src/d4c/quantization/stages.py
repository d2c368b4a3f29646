"""A tower as a chain of stages, so that it can be calibrated and rebuilt from front to back on cached states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.tower import PublishedUnit
from d4c.models.tower import Stage as TowerStage


@dataclass(frozen=True)
class Stage:
    """A step of one of the towers of a CLIP, named as in the CLIP."""

    tower: str
    step: TowerStage

    @property
    def name(self) -> str:
        return f"{self.tower}.{self.step.name}"

    @property
    def reads_inputs(self) -> bool:
        """Whether the stage needs the pixels or tokens beside the state."""
        return self.step.reads_inputs

    @property
    def published_unit(self) -> PublishedUnit:
        """What the authors learn as one in this stage."""
        return self.step.published_unit

    def run(self, clip: CLIP, state: Tensor, inputs: Tensor) -> Tensor:
        """The state after the stage, from the state before it and the pixels or tokens of the same samples."""
        return self.step.run(clip.tower(self.tower), state, inputs)

    def owns(self, layer: str) -> bool:
        """Whether a layer, by its name in the CLIP, runs in this stage."""
        tower, _, name = layer.partition(".")
        return tower == self.tower and self.step.owns(name)


def stages(clip: CLIP, tower: str) -> list[Stage]:
    """Embedding, blocks and head of "image" or "text", in order."""
    return [Stage(tower, step) for step in clip.tower(tower).stages()]


def _batches(clip: CLIP, state: Tensor, inputs: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some samples at a time on the model's device: states before a stage, and inputs of the tower."""
    for x, given in zip(state.split(batch), inputs.split(batch), strict=True):
        yield x.to(clip.device), given.to(clip.device)


@torch.no_grad()
def run_stage(stage: Stage, clip: CLIP, state: Tensor, inputs: Tensor, batch: int = 64) -> Tensor:
    """The state behind a stage for all samples, computed in batches; it lies where the state before lay."""
    return torch.cat([stage.run(clip, x, given).to(state.device) for x, given in _batches(clip, state, inputs, batch)])


class _Seen(Exception):
    """Ends a stage once the input that was asked for is known."""


@torch.no_grad()
def record_input(stage: Stage, clip: CLIP, module: nn.Module, state: Tensor, inputs: Tensor, batch: int = 64) -> Tensor:
    """The first input of one module inside a stage for all samples; what comes behind the module is not computed."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].to(state.device))
        raise _Seen

    handle = module.register_forward_pre_hook(keep)
    try:
        for x, given in _batches(clip, state, inputs, batch):
            with suppress(_Seen):
                stage.run(clip, x, given)
    finally:
        handle.remove()
    return torch.cat(seen)


def record_output(stage: Stage, clip: CLIP, module: nn.Module, state: Tensor, inputs: Tensor) -> Tensor:
    """The output of one module inside a stage for all samples."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, y: seen.append(y.to(state.device)))
    try:
        run_stage(stage, clip, state, inputs)
    finally:
        handle.remove()
    return torch.cat(seen)
