"""The objective of "pse": patches whose similarities vary as much as those of real images.

PSAQ-ViT (Li et al. 2022, arXiv 2203.02250) observes that the cosine similarities between patches take many values in
real images and few in noise. It makes images by maximizing the differential entropy of their distribution.
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
from d4c.synthesis.methods.prompt_term import prompt_term
from d4c.synthesis.objectives import same_group, total_variation
from d4c.synthesis.setup import Setup
from d4c.synthesis.tower.encode import encode_and_record
from d4c.synthesis.views import Draws, move

BANDWIDTH = 0.01
"""Standard deviation of the Gaussian kernel, in units of cosine similarity."""

POINTS = 10
"""Points at which the density is evaluated and integrated, from the smallest to the largest similarity of a group."""

FLOOR = 1e-4
"""Added to the density, so that its logarithm is finite between distant similarities."""

TV_HOLD = 0.05 * 2750
"""Weight of the relative distance to the target norm of neighbor differences: PSAQ's weight times its mean target."""


def similarity_losses(clip: CLIP, config: SynthesisConfig, setup: Setup, images: Tensor, draws: Draws) -> Tensor:
    """Compute minus the entropy of patch similarities, summed over blocks, plus the terms of the form.

    "psaq" is the method of its authors, on attention times values averaged over heads. Their cross-entropy to a one-hot
    class is replaced by that to the image's prompt, since a CLIP has no classes. The norm of neighbor differences is
    held at a target, images are moved and flipped in each step, and after it they are clipped to valid colors. The
    learning rate and Adam's constants are those of the other methods here.
    "psaq-alone" is the same without the prompt, for an image tower alone.
    "published" is the baseline in the code of D4C: attention times the input of the attention layer, plus weighted
    total variation, and nothing else.

    Args:
        clip: The model.
        config: `pse_form`, `prompt_form`, `tv_weight`, `tv_target` and `temperature` are read.
        setup: Targets and groups of N images.
        images: Images [N, 3, S, S] in normalized pixel space.
        draws: Random numbers of this step.

    Returns:
        Losses [N].

    Raises:
        SettingError: The image tower has no patches.
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
        rest = TV_HOLD * (norm - 1).abs()
        if config.needs.prompts:
            rest = rest + prompt_term(clip, config, setup, features)
    same = same_group(setup.group)
    return rest - torch.stack([similarity_entropy(x[:, first:], same) for x in tokens]).sum(0)


def total_variation_target(config: SynthesisConfig, size: int) -> float:
    """Convert the configured target, which is for 224 x 224 pixels, to another size.

    The fewer pixels there are, the further apart are neighbors in the scene, and the more they differ. The power 2/3 is
    close to that of dead leaves drawn at several sizes, and holds a small image near the value of small photographs.
    """
    return config.tv_target * (224 / size) ** (2 / 3)


def attentions(clip: CLIP) -> tuple[list[Attention], int]:
    """Return the attention layers that mix patches, and the number of rows before the patches.

    Raises:
        SettingError: The image tower has no patches.
    """
    patches = clip.image.patches()
    if patches is None or not patches.attentions:
        raise SettingError(
            f"The method 'pse' compares patches, and the image tower of {clip.name!r} keeps none; use 'bns'."
        )
    return [cast(Attention, clip.image.get_submodule(name)) for name in patches.attentions], patches.first


def mixed_inputs(attn: Attention, x: Tensor) -> Tensor:
    """Multiply the attention weights, averaged over heads, by the input of the layer [N, L, C]."""
    layer_input = x.to(attn.q.weight.dtype)
    q, k = (split_heads(layer(layer_input).to(x.dtype), attn.heads) for layer in (attn.q, attn.k))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return weights.mean(1) @ x


def similarity_entropy(patches: Tensor, same: Tensor) -> Tensor:
    """Estimate the differential entropy of the cosine similarities of all pairs of patches of an image.

    It is -integral of p log p by the trapezoidal rule, where p is a Gaussian kernel density. The points lie between the
    smallest and the largest similarity in the group; no gradient flows through these ends. They are further apart than
    the kernel is wide, so the estimate is coarse, as in both published codes.

    Args:
        patches: Patches [N, P, C].
        same: Pairs of images in one group, boolean [N, N].

    Returns:
        Entropies [N] in nats.
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
