"""The objective of D4C and its ablations: recognised as the prompt, apart from backgrounds, and smooth."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.encode import encode
from d4c.synthesis.objectives import prompt_loss, total_variation
from d4c.synthesis.setup import Setup
from d4c.synthesis.views import Draws, background, crop, perturb


def contrastive_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """Cross-entropy to the prompt plus weighted total variation, for each image [N].

    As published, total variation is that of the image itself, except in "pgsi+pae", where it is that of the
    perturbed image.
    """
    shown = images if setup.boxes is None else crop(images, setup.boxes)
    if draws.perturbation is not None:
        shown = perturb(shown, draws.perturbation)
    views = [shown]
    if setup.boxes is not None and draws.noise is not None:
        views.append(background(images, setup.boxes, config.background_noise * draws.noise))
    features, *backgrounds = encode(clip, torch.cat(views), config).split(len(images))
    negatives = backgrounds[0] if backgrounds else None
    contrast = prompt_loss(features, setup.texts, setup.targets, config.temperature, negatives, setup.group)
    smooth = shown if config.method == "pgsi+pae" else images
    return contrast + config.tv_weight * total_variation(smooth)
