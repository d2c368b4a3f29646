"""The objective of "pse": patches whose similarities are as spread out as those of real images.

PSAQ-ViT (Li et al. 2022, arXiv 2203.02250) observes that in real images the cosine similarities between patches take
many values, in noise few, and makes images by maximizing the differential entropy of their distribution.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.layers import Attention, split_heads
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.objectives import prompt_loss, same_group, total_variation
from d4c.synthesis.setup import Setup
from d4c.synthesis.tower.encode import encode_and_record
from d4c.synthesis.views import Draws, move

BANDWIDTH = 0.01
"""Standard deviation of the Gaussian kernel, in units of cosine similarity."""

POINTS = 10
"""Where the density is evaluated and integrated, from the smallest to the largest similarity of a group."""

FLOOR = 1e-4
"""Added to the density, so that its logarithm is finite between distant similarities."""

TV_HOLD = 0.05 * 2750
"""Weight of the relative distance to the target norm of neighbor differences: PSAQ's weight times its mean target."""


def similarity_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """Minus the entropy of patch similarities, summed over blocks, and what the form adds, for each image [N].

    "psaq" is the method as its authors have it, on attention times values averaged over heads, with their
    cross-entropy to a one-hot class replaced by that to the image's prompt, since a CLIP has no classes; the norm of
    neighbor differences is held at a target, and the images are moved and flipped each step (and clipped to colors
    that exist, after the step). The learning rate and Adam's constants are those of the other methods here.
    "published" is the baseline in the code of D4C: attention times the input of the attention layer, plus weighted
    total variation, and nothing else. Raises SettingError for a tower without patches.
    """
    blocks, first = attentions(clip)
    if config.pse_form == "published":
        _, inputs = encode_and_record(clip, images, blocks)
        tokens = [mixed_inputs(attn, x) for attn, x in zip(blocks, inputs, strict=True)]
        rest = config.tv_weight * total_variation(images)
    else:
        shown = images if draws.move is None else move(images, draws.move)
        features, inputs = encode_and_record(clip, shown, [attn.out for attn in blocks])
        tokens = [x.unflatten(2, (attn.heads, -1)).mean(2) for attn, x in zip(blocks, inputs, strict=True)]
        target = total_variation_target(config, clip.image_size)
        norm = (total_variation(images) / target).clamp(min=1e-6).sqrt()  # sqrt has no slope at 0
        rest = prompt_loss(features, setup.texts, setup.targets, config.temperature, None, setup.group)
        rest = rest + TV_HOLD * (norm - 1).abs()
    same = same_group(setup.group)
    return rest - torch.stack([similarity_entropy(x[:, first:], same) for x in tokens]).sum(0)


def total_variation_target(config: SynthesisConfig, size: int) -> float:
    """The configured target, which is for 224 pixels a side, at another size.

    The fewer pixels, the further apart are neighbors in the scene, and the more they differ. The power 2/3 is close
    to that of dead leaves drawn at several sizes, and a small image is held near what small photographs have.
    """
    return config.tv_target * (224 / size) ** (2 / 3)


def attentions(clip: CLIP) -> tuple[list[Attention], int]:
    """The attention layers that mix patches with each other, and how many rows come before the patches."""
    patches = clip.image.patches()
    if patches is None or not patches.attentions:
        raise SettingError(
            f"The method 'pse' compares patches, and the image tower of {clip.name!r} keeps none; use 'bns' or 'd4c'."
        )
    return [cast(Attention, clip.image.get_submodule(name)) for name in patches.attentions], patches.first


def mixed_inputs(attn: Attention, x: Tensor) -> Tensor:
    """Attention weights, averaged over heads, times the layer's own input [N, L, C]."""
    given = x.to(attn.q.weight.dtype)
    q, k = (split_heads(layer(given).to(x.dtype), attn.heads) for layer in (attn.q, attn.k))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return weights.mean(1) @ x


def similarity_entropy(patches: Tensor, same: Tensor) -> Tensor:
    """Differential entropy of the cosine similarities of all pairs of patches [N, P, C] of an image: [N].

    -integral of p log p by the trapezoidal rule, with p a Gaussian kernel density. The points lie between the
    smallest and the largest similarity in the images that are the `same` group, boolean [N, N]; no gradient flows
    through these ends. They are further apart than the kernel is wide, so the estimate is a coarse one, in both codes.
    """
    unit = F.normalize(patches, dim=-1)
    values = (unit @ unit.transpose(1, 2)).flatten(1)
    low, high = values.detach().aminmax(dim=1)
    low = low.expand_as(same).masked_fill(~same, math.inf).amin(1)
    high = high.expand_as(same).masked_fill(~same, -math.inf).amax(1)
    points = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, POINTS, device=low.device, dtype=low.dtype)
    width = BANDWIDTH * math.sqrt(2)  # exp(-(x / width)^2) / (width sqrt(pi)) is the normal density
    kernel = ((points / width)[:, :, None] - (values / width)[:, None, :]).square().neg().exp()
    density = kernel.mean(2) / (width * math.sqrt(math.pi)) + FLOOR
    return torch.trapezoid(-density * density.log(), points)
