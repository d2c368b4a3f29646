"""Draws what a synthesis starts from: each image's prompt, group and box, and the start images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from d4c.calibration.natural import gaussian_noise, pink_noise
from d4c.calibration.prompts import prompt_features
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.views import Windows, draw_boxes, windows


@dataclass(frozen=True)
class Setup:
    """What stays the same through all steps, for N images.

    Args:
        texts: Unit embeddings of the prompts [P, D], none where the method has no prompts.
        targets: Index of each image's prompt, int64 [N], -1 where the method has no prompts.
        group: Group of each image, int64 [N].
        weight: 1 / size of the image's group [N], so that the sum of all losses has the gradient of each group's mean.
        boxes: Left, top, right and bottom edge of each foreground box in pixels, int64 [N, 4], the last two just
            outside; None where the method has no boxes.
        window: What cuts the boxes out.
    """

    texts: Tensor
    targets: Tensor
    group: Tensor
    weight: Tensor
    boxes: Tensor | None
    window: Windows | None

    def __getitem__(self, rows: slice) -> Setup:
        boxes = None if self.boxes is None else self.boxes[rows]
        window = None if self.window is None else self.window[rows]
        return Setup(self.texts, self.targets[rows], self.group[rows], self.weight[rows], boxes, window)


def prepare(clip: CLIP, config: SynthesisConfig, prompts: Sequence[str], seed: int) -> tuple[Setup, Tensor, Generator]:
    """Draw everything that is needed before the first step.

    Args:
        clip: The model; its text tower embeds the prompts.
        config: The settings.
        prompts: Candidates for the images' targets; unused where the method needs none.
        seed: Seed of the generator on the model's device.

    Returns:
        The setup, the start images [N, 3, S, S] in normalized pixel space, and the generator for the steps.

    Raises:
        DataError: The tokenizer would cut a prompt.
        SettingError: The prompt form is "sigmoid", and the model has no bias for it.
    """
    if config.needs.prompts and config.prompt_form == "sigmoid" and clip.logit_bias is None:
        raise SettingError(
            f"The prompt form is 'sigmoid', and {clip.name!r}, which was trained with a softmax, has no bias of "
            "its logits; use 'softmax'."
        )
    device, n = clip.device, config.images
    generator = torch.Generator(device).manual_seed(seed)
    if config.needs.prompts:
        texts = prompt_features(clip, prompts)
        targets = draw_targets(n, len(prompts), config.targets, generator)
    else:
        texts = torch.empty(0, clip.config.embed_dim, device=device)
        targets = torch.full((n,), -1, device=device)
    group = torch.arange(n, device=device) // config.inseparable
    weight = 1 / group.bincount()[group].float()
    size = clip.image_size
    boxes = window = None
    if config.needs.boxes:
        drawn = draw_boxes(n, size, config, generator)
        boxes = torch.stack([drawn.left, drawn.top, drawn.left + drawn.side, drawn.top + drawn.side], -1)
        window = windows(drawn, size)
    if config.start == "noise":
        start = gaussian_noise(n, size, generator)
    else:
        start = clip.normalize(pink_noise(n, size, generator))
    return Setup(texts, targets, group, weight, boxes, window), start, generator


def draw_targets(n: int, prompts: int, how: str, generator: Generator) -> Tensor:
    """Draw the prompt of each image.

    Args:
        n: Number of images.
        prompts: Number of prompts.
        how: "random" draws each image's prompt independently; "even" uses each prompt floor or ceil of n / prompts
            times.
        generator: Source of random numbers.

    Returns:
        Indices int64 [n].
    """
    device = generator.device
    if how == "random":
        return torch.randint(prompts, (n,), generator=generator, device=device)
    rounds = -(-n // prompts)
    order = torch.cat([torch.randperm(prompts, generator=generator, device=device) for _ in range(rounds)])[:n]
    return order[torch.randperm(n, generator=generator, device=device)]
