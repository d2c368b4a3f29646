"""Measures how images are built: how far the attended part differs from the rest, and their spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import SettingError
from d4c.inspection.features import removed_after
from d4c.inspection.spectrum import radial_power, slopes
from d4c.models.clip import CLIP

BINS = 100
"""Bins of the histogram of similarities, over the range from -1 to 1."""


@dataclass(frozen=True)
class Structure:
    """How N images are built, one number per image.

    Patches are the tokens that the last attention layer of the image tower reads (in ResNets, the cells of the last
    feature map), without the token that becomes the embedding. Similarity is their cosine. The foreground is the half
    of the patches to which that token attends most, in the mean over heads. These weights are how patches enter the
    embedding, so the foreground is what the image shows to this model, and every image has one.

    Args:
        patches: Number of patches; the 4 of a ResNet for 64 pixels are too few for more than a hint.
        variance: Variance of the similarity over all pairs of a foreground and a background patch.
        contrast: Mean similarity of pairs within the foreground or within the background minus that of pairs across;
            0 if the two regions do not differ.
        entropy: Differential entropy in nats of the similarities of all pairs of patches, from a histogram of 100 bins
            over -1 to 1, so that sets can be compared; higher is more varied. PSAQ-ViT (arXiv 2203.02250) maximizes a
            kernel estimate of it.
        slope: Slope of the log radial power spectrum of brightness, see `spectrum`.
        frequency: Frequencies of the spectrum in cycles per image [F].
        power: Power at these frequencies, the mean over images [F].
    """

    patches: int
    variance: tuple[float, ...]
    contrast: tuple[float, ...]
    entropy: tuple[float, ...]
    slope: tuple[float, ...]
    frequency: tuple[int, ...]
    power: tuple[float, ...]


def structure(patches: PatchRecorder, brightness: Tensor) -> Structure:
    """Measure how images are built.

    Args:
        patches: The recorder of `watch_patches` after the images went through the model.
        brightness: Their brightness [N, S, S], from `luma`.

    Returns:
        The measures.

    Raises:
        SettingError: The tower has fewer than 4 patches.
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


class PatchRecorder:
    """Keeps the tokens and weights of the last attention layer, batch by batch; `watch_patches` fills it.

    Args:
        first: Index of the first token that is a patch.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.tokens: list[Tensor] = []
        self.weights: list[Tensor] = []

    def record(self, tokens: Tensor, weights: Tensor) -> None:
        """Keep the patches among tokens [N, L, C] and their weights [N, L]."""
        self.tokens.append(tokens[:, self.first :].float().cpu())
        self.weights.append(weights[:, self.first :].float().cpu())

    def similarity(self) -> Tensor:
        """Return the cosines between the patches of each image, [N, P, P].

        Raises:
            SettingError: There are fewer than 4 patches.
        """
        unit = F.normalize(torch.cat(self.tokens), dim=-1)
        if unit.shape[1] < 4:
            raise SettingError(
                f"The image tower has {unit.shape[1]} patches, expected at least 4 to compare them; "
                "use a model with larger images."
            )
        return unit @ unit.transpose(1, 2)

    def foreground(self) -> Tensor:
        """Return the half of the patches with the largest weights, boolean [N, P]."""
        weights = torch.cat(self.weights)
        most = weights.topk(weights.shape[1] // 2, 1).indices
        return torch.zeros_like(weights, dtype=torch.bool).scatter_(1, most, True)


@contextmanager
def watch_patches(clip: CLIP) -> Iterator[PatchRecorder]:
    """Record the patches of all images that the model encodes while the block runs.

    Args:
        clip: The model whose `encode_image` the block calls.

    Yields:
        The recorder, to be read after the block.

    Raises:
        SettingError: The image tower has no patches.
    """
    layout = clip.image.patches()
    if layout is None:
        raise SettingError(f"The image tower of {clip.name!r} has no patches to compare; leave its structure out.")
    summary: Any = clip.image.get_submodule(layout.summary)
    recorder = PatchRecorder(layout.summary_first)
    with removed_after(summary.watch_summary(recorder.record)):
        yield recorder


def region_statistics(similarity: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the similarities across two regions with those within them.

    Args:
        similarity: Cosines between patches [N, P, P].
        foreground: The patches of one region, boolean [N, P].

    Returns:
        `variance` and `contrast` of `Structure`, [N] each.
    """
    values = similarity.double()
    same_region = foreground[:, :, None] == foreground[:, None, :]
    different_patches = ~torch.eye(values.shape[1], dtype=torch.bool)
    within, across = same_region & different_patches, ~same_region

    def mean(x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask).sum((1, 2)) / mask.sum((1, 2))

    mean_across = mean(values, across)
    variance = mean((values - mean_across[:, None, None]).square(), across)
    return variance, mean(values, within) - mean_across


def histogram_entropy(similarity: Tensor) -> Tensor:
    """Estimate the differential entropy of the similarities of all pairs of different patches.

    It is -sum p log(p / width) over the bins: log 2 if all similarities from -1 to 1 are equally frequent,
    log(2 / BINS) if all lie in one bin.

    Args:
        similarity: Cosines between patches [N, P, P].

    Returns:
        Entropies [N] in nats.
    """
    n, count, _ = similarity.shape
    first, second = torch.triu_indices(count, count, 1)
    bins = ((similarity[:, first, second].double() + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    p = torch.zeros(n, BINS, dtype=torch.float64).scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    p /= bins.shape[1]
    return -torch.special.xlogy(p, p * BINS / 2).sum(1)
