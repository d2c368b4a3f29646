"""A tower as a chain of stages, so that it can be calibrated and rebuilt from front to back on cached states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP


@dataclass(frozen=True)
class Stage:
    """One step of a tower: `run(clip, state, inputs)` maps the state before it to the state behind it.

    `inputs` are the pixels or tokens of the same samples; the embedding stage and the text head read them.
    """

    name: str
    run: Callable[[CLIP, Tensor, Tensor], Tensor]
    prefixes: tuple[str, ...]

    def owns(self, layer: str) -> bool:
        """Whether a layer, by its name in the CLIP, runs in this stage."""
        return layer.startswith(self.prefixes)


def stages(clip: CLIP, tower: str) -> list[Stage]:
    """Embedding, blocks and head of "image" or "text", in order."""
    if tower == "image":
        embed = Stage("image.embed", lambda c, _, pixels: c.image.embed(pixels), ("image.patch_embed", "image.stem."))
        head = Stage("image.head", lambda c, x, _: c.image.head(x), ("image.projection", "image.pool."))
        return [embed, *(_image_block(i) for i in range(len(clip.image.blocks))), head]
    embed = Stage("text.embed", lambda c, _, tokens: c.text.embed(tokens), ("text.token_embedding",))
    head = Stage("text.head", lambda c, x, tokens: c.text.head(x, tokens), ("text.projection",))
    return [embed, *(_text_block(i) for i in range(len(clip.text.blocks))), head]


def _image_block(i: int) -> Stage:
    return Stage(f"image.blocks.{i}", lambda c, x, _: c.image.blocks[i](x), (f"image.blocks.{i}.",))


def _text_block(i: int) -> Stage:
    return Stage(f"text.blocks.{i}", lambda c, x, _: c.text.blocks[i](x, causal=True), (f"text.blocks.{i}.",))


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
