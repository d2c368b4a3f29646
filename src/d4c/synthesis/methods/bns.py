"""The objective of "bns": activations with the mean and variance of real images that BatchNorm layers store."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.objectives import same_group, total_variation
from d4c.synthesis.setup import Setup
from d4c.synthesis.tower.encode import encode_and_record
from d4c.synthesis.views import Draws


def statistics_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """Compute the distance of each group's BatchNorm statistics to the running ones, plus weighted total variation.

    The distance is the sum over layers of the mean over channels of (mean - running mean)^2 + (variance - running
    variance)^2, with the biased variance over images and positions (Yin et al. 2020, "Dreaming to distill", with
    squares instead of norms).

    Args:
        clip: The model.
        config: `tv_weight` is read.
        setup: The groups of N images.
        images: Images [N, 3, S, S] in normalized pixel space.
        draws: Not used.

    Returns:
        Losses [N]; every image of a group has the distance of the group.

    Raises:
        SettingError: The image tower has no BatchNorm.
    """
    layers = batch_norms(clip)
    _, inputs = encode_and_record(clip, images, layers)
    same = same_group(setup.group).to(images.dtype)
    share = same / same.sum(1)  # times [N, C] it gives each image the mean of its group
    loss = config.tv_weight * total_variation(images)
    for layer, x in zip(layers, inputs, strict=True):
        variance, mean = torch.var_mean(x, (2, 3), correction=0)
        group_mean = share @ mean
        # The law of total variance, within and between images; unlike E[x^2] - E[x]^2 it does not cancel.
        group_variance = share @ (variance + (mean - group_mean).square())
        loss = loss + (group_mean - layer.get_buffer("running_mean")).square().mean(1)
        loss = loss + (group_variance - layer.get_buffer("running_var")).square().mean(1)
    return loss


def batch_norms(clip: CLIP) -> list[nn.BatchNorm2d]:
    """Return the BatchNorm layers of the image tower; raise SettingError if there are none."""
    layers = [module for module in clip.image.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        raise SettingError(
            f"The method 'bns' compares BatchNorm statistics, and the image tower of {clip.name!r} has none; "
            "use 'pse' or 'd4c'."
        )
    return layers
