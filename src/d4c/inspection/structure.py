"""Structure of images: whether what the model looks at differs from its surroundings, and how detail is spread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.inspection.features import removed_after
from d4c.inspection.spectrum import radial_power, slopes
from d4c.models.clip import CLIP
from d4c.models.layers import AttentionProducts, split_heads

BINS = 100
"""Bins of the histogram of similarities, over the whole range from -1 to 1."""


@dataclass(frozen=True)
class Structure:
    """What N images are built like, one number an image.

    Patches are the tokens that the last attention layer of the image tower reads (in ResNets, the cells of the last
    feature map), without the token that becomes the embedding; similarity is their cosine. The foreground is the half
    of the patches to which that token attends most, mean over heads: these weights are how patches enter the
    embedding, so it is what the image shows to this model, and it exists for any image, made with a box or not.
    `patches` is their number; the 4 of a ResNet for 64 pixels are too few for more than a hint.

    `variance`: variance of the similarity over all pairs of a foreground and a background patch. `contrast`: mean
    similarity of pairs within the foreground or within the background minus that of pairs across; 0 if the two regions
    do not differ. `entropy`: differential entropy in nats of the similarities of all pairs of patches, from a
    histogram of 100 bins over -1 to 1, so that it means the same for every set (PSAQ-ViT, arXiv 2203.02250, maximizes
    a kernel estimate of it); higher is more varied. `slope`: slope of the log radial power spectrum of brightness,
    see `spectrum`. `frequency` [F] in cycles per image and `power` [F], the mean over images, draw that spectrum.
    """

    patches: int
    variance: tuple[float, ...]
    contrast: tuple[float, ...]
    entropy: tuple[float, ...]
    slope: tuple[float, ...]
    frequency: tuple[int, ...]
    power: tuple[float, ...]


def structure(patches: Patches, brightness: Tensor) -> Structure:
    """Measure images from what `watch_patches` saw of them and their `luma` [N, S, S].

    Raises SettingError for a tower with fewer than 4 patches.
    """
    similarity, foreground = patches.similarity(), patches.foreground()
    variance, contrast = region_statistics(similarity, foreground)
    frequency, power = radial_power(brightness)
    return Structure(
        patches=similarity.shape[1],
        variance=tuple(variance.tolist()),
        contrast=tuple(contrast.tolist()),
        entropy=tuple(histogram_entropy(similarity).tolist()),
        slope=tuple(slopes(frequency, power).tolist()),
        frequency=tuple(frequency.tolist()),
        power=tuple(power.mean(0).tolist()),
    )


class Patches:
    """What the last attention layer of an image tower read, batch by batch; `watch_patches` fills it."""

    def __init__(self, attn: AttentionProducts, first: int) -> None:
        self.attn, self.first = attn, first
        self.queries: Tensor | None = None
        self.tokens: list[Tensor] = []
        self.weights: list[Tensor] = []

    def see_queries(self, _layer: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        self.queries = output

    def see_keys(self, _layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert self.queries is not None
        self.tokens.append(inputs[0][:, self.first :].float().cpu())
        self.weights.append(summary_weights(self.attn, self.queries, output)[:, self.first :].float().cpu())

    def similarity(self) -> Tensor:
        """Cosines between the patches of each image, [N, P, P]; raises SettingError for fewer than 4 patches."""
        unit = F.normalize(torch.cat(self.tokens), dim=-1)
        if unit.shape[1] < 4:
            raise SettingError(
                f"The image tower has {unit.shape[1]} patches, expected at least 4 to compare them; "
                "use a model with larger images."
            )
        return unit @ unit.transpose(1, 2)

    def foreground(self) -> Tensor:
        """The half of the patches that is attended to most, boolean [N, P]."""
        weights = torch.cat(self.weights)
        most = weights.topk(weights.shape[1] // 2, 1).indices
        return torch.zeros_like(weights, dtype=torch.bool).scatter_(1, most, True)


@contextmanager
def watch_patches(clip: CLIP) -> Iterator[Patches]:
    """Collect the patches of the images that go through `clip.encode_image` inside the block."""
    layout = clip.image.patches()
    if layout is None:
        raise SettingError(f"The image tower of {clip.name!r} has no patches to compare; leave its structure out.")
    attn: Any = clip.image.get_submodule(layout.summary)
    seen = Patches(attn, layout.summary_first)
    # q runs before k.
    hooks = (attn.q.register_forward_hook(seen.see_queries), attn.k.register_forward_hook(seen.see_keys))
    with removed_after(hooks):
        yield seen


def summary_weights(attn: AttentionProducts, q: Tensor, k: Tensor) -> Tensor:
    """Attention of the first query over all tokens, mean over heads [N, L], from projected q and k [N, L, C]."""
    queries, keys = split_heads(q[:, :1], attn.heads), split_heads(k, attn.heads)
    return (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)).softmax(-1).mean(1)[:, 0]


def region_statistics(similarity: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """`variance` and `contrast` of `Structure` [N], from similarities [N, P, P] and regions, boolean [N, P]."""
    values = similarity.double()
    same = foreground[:, :, None] == foreground[:, None, :]
    pair = ~torch.eye(values.shape[1], dtype=torch.bool)
    within, across = same & pair, ~same

    def mean(x: Tensor, where: Tensor) -> Tensor:
        return (x * where).sum((1, 2)) / where.sum((1, 2))

    apart = mean(values, across)
    variance = mean((values - apart[:, None, None]).square(), across)
    return variance, mean(values, within) - apart


def histogram_entropy(similarity: Tensor) -> Tensor:
    """Differential entropy in nats of the similarities [N, P, P] of all pairs of different patches: [N].

    -sum p log(p / width) over the bins. It is log 2 if all similarities from -1 to 1 are equally frequent and
    log(2 / BINS) if all lie in one bin.
    """
    n, count, _ = similarity.shape
    first, second = torch.triu_indices(count, count, 1)
    bins = ((similarity[:, first, second].double() + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    p = torch.zeros(n, BINS, dtype=torch.float64).scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    p /= bins.shape[1]
    return -torch.special.xlogy(p, p * BINS / 2).sum(1)
