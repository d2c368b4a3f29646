"""Measures the ranges of quantized activations, and how those of one set of images fit those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d4c.errors import DataError
from d4c.inspection.features import removed_after
from d4c.models.clip import CLIP

TAIL = 0.001
"""Share of the values beyond each end of the inner range."""

SAMPLE = 1 << 17
"""Values per batch that quantiles are taken from; the standard error of an end's rank is below 10 % of the tail."""


@dataclass(frozen=True)
class Range:
    """The range of all values that enter a layer.

    Args:
        low: The 0.1 % quantile.
        high: The 99.9 % quantile.
        smallest: The minimum.
        largest: The maximum.
    """

    low: float
    high: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Fit:
    """The range of a set at one layer, relative to that of the reference set.

    Above a ratio of 1 quantization steps are coarser than the reference needs; below 1 its values are clamped.

    Args:
        width: Ratio of high - low.
        extent: Ratio of largest - smallest.
        overlap: Intersection over union of the two intervals from low to high: 1 if they are equal, 0 if they do not
            meet.
    """

    width: float
    extent: float
    overlap: float


class RangeRecorder:
    """Keeps samples and extremes of the inputs of layers, batch by batch; `watch_ranges` fills it.

    Args:
        names: Names of the layers that are watched.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names = names
        self.samples: dict[str, list[Tensor]] = {}
        self.extents: dict[str, tuple[float, float]] = {}
        self.last_input: Tensor | None = None
        self.generator = torch.Generator().manual_seed(0)

    def record(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Record the input of a layer; a forward pre-hook."""
        x = inputs[0]
        if x is self.last_input:
            return
        self.last_input = x
        name = self.names[layer]
        values = x.detach().flatten().float()
        low, high = (float(end) for end in values.aminmax())
        lowest, highest = self.extents.get(name, (low, high))
        self.extents[name] = (min(low, lowest), max(high, highest))
        if values.numel() > SAMPLE:
            values = values[torch.randint(values.numel(), (SAMPLE,), generator=self.generator).to(values.device)]
        self.samples.setdefault(name, []).append(values.cpu())

    def by_layer(self) -> dict[str, Range]:
        """Return the range of all recorded inputs, by layer in the order of use."""
        quantiles = torch.tensor([TAIL, 1 - TAIL])
        ranges = {}
        for name, batches in self.samples.items():
            low, high = torch.cat(batches).quantile(quantiles).tolist()
            ranges[name] = Range(low, high, *self.extents[name])
        return ranges


@contextmanager
def watch_ranges(clip: CLIP) -> Iterator[RangeRecorder]:
    """Record the inputs of the linear and convolutional layers of the image tower while the block runs.

    These are the inputs that get a quantizer. Where consecutive layers read the same tensor, as q, k and v do, only
    the first is listed. Smallest and largest are exact; low and high come from a sample with a fixed seed.

    Args:
        clip: The model whose `encode_image` the block calls.

    Yields:
        The recorder, to be read after the block.
    """
    names: dict[nn.Module, str] = {
        module: f"image.{name}"
        for name, module in clip.image.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    recorder = RangeRecorder(names)
    with removed_after([module.register_forward_pre_hook(recorder.record) for module in names]):
        yield recorder


def fit_ranges(ranges: Mapping[str, Range], reference: Mapping[str, Range]) -> dict[str, Fit]:
    """Compare the range of each layer with that of the reference.

    A layer at which the reference has no width is left out, since nothing can be relative to it.

    Args:
        ranges: Ranges of a set, by layer.
        reference: Ranges of the reference set at the same layers.

    Returns:
        Comparisons by layer.

    Raises:
        DataError: The layers differ, or the reference has no width at any of them.
    """
    if ranges.keys() != reference.keys():
        raise DataError("The ranges are of different layers, expected those of one model; measure both sets with it.")
    fits = {
        name: fit(observed, reference[name])
        for name, observed in ranges.items()
        if reference[name].low < reference[name].high
    }
    if not fits:
        raise DataError(
            "The reference images give every layer a single value, expected a range; give pictures that differ."
        )
    return fits


def fit(observed: Range, reference: Range) -> Fit:
    """Compare a range with that of the reference, whose width is above 0."""
    width = reference.high - reference.low
    shared = max(0.0, min(observed.high, reference.high) - max(observed.low, reference.low))
    union = (observed.high - observed.low) + width - shared
    return Fit(
        width=(observed.high - observed.low) / width,
        extent=(observed.largest - observed.smallest) / (reference.largest - reference.smallest),
        overlap=shared / union,
    )
