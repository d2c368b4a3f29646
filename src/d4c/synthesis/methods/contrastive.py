"""The objective of D4C and its ablations: images that are recognized as the prompt, unlike backgrounds, and smooth."""

from __future__ import annotations

import torch
from torch import Tensor

from d4c.compiled import fused
from d4c.models.clip import CLIP
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.methods.prompt_term import prompt_term
from d4c.synthesis.objectives import total_variation
from d4c.synthesis.setup import Setup
from d4c.synthesis.tower.encode import encode, tower_dtype
from d4c.synthesis.views import Draws, Windows, background, crop, perturb


def contrastive_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """Compute the loss to the prompt plus weighted total variation.

    As published, total variation is that of the image itself, or of the perturbed image where whole images are
    perturbed.

    Args:
        clip: The model, whose image tower sees foregrounds and backgrounds together.
        config: `prompt_form`, `temperature`, `tv_weight` and `background_noise` are read.
        setup: Targets, groups and, where the method has boxes, the windows of N images.
        images: Images [N, 3, S, S] in normalized pixel space.
        draws: Random numbers of this step.

    Returns:
        Losses [N].
    """
    views, smooth = show(images, setup.window, draws, config, tower_dtype(clip))
    features, *backgrounds = encode(clip, views).split(len(images))
    negatives = backgrounds[0] if backgrounds else None
    return prompt_term(clip, config, setup, features, negatives) + config.tv_weight * smooth


@fused
def show(
    images: Tensor, window: Windows | None, draws: Draws, config: SynthesisConfig, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return foregrounds [N, 3, S, S] followed by backgrounds, if there are any, and the total variation [N]."""
    shown = images.to(dtype)
    views = []
    if window is not None and draws.noise is not None:
        views.append(background(shown, window, config.background_noise * draws.noise))
        shown = crop(shown, window)
    if draws.perturbation is not None:
        shown = perturb(shown, draws.perturbation)
    perturbed_whole = window is None and draws.perturbation is not None
    smooth = total_variation(shown.to(images.dtype) if perturbed_whole else images)
    return torch.cat([shown, *views]), smooth
