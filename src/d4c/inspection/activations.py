"""Ranges of the activations that get quantized, and how those of one set of images fit those of another."""

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
"""Share of the values that lies beyond each end of the inner range."""

SAMPLE = 1 << 17
"""Values of a batch that quantiles are taken from; the standard error of an end's rank is below 10 % of the tail."""


@dataclass(frozen=True)
class Range:
    """Range of all values that enter a layer: 0.1 % to 99.9 %, and smallest to largest."""

    low: float
    high: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Fit:
    """The range of a set relative to that of the reference set, at one layer.

    `width` and `extent` are the ratios of high - low and of largest - smallest: above 1 quantization steps are coarser
    than the reference would need, below 1 its values are clamped. `overlap` is intersection over union of the two
    intervals from low to high: 1 if they are equal, 0 if they are apart.
    """

    width: float
    extent: float
    overlap: float


class Ranges:
    """Samples and extremes of what enters layers, batch by batch; `watch_ranges` fills it."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names = names
        self.samples: dict[str, list[Tensor]] = {}
        self.extents: dict[str, tuple[float, float]] = {}
        self.last: Tensor | None = None
        self.generator = torch.Generator().manual_seed(0)

    def see(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        if x is self.last:
            return
        self.last = x
        name = self.names[layer]
        values = x.detach().flatten().float()
        low, high = (float(end) for end in values.aminmax())
        earlier = self.extents.get(name, (low, high))
        self.extents[name] = (min(low, earlier[0]), max(high, earlier[1]))
        if values.numel() > SAMPLE:
            values = values[torch.randint(values.numel(), (SAMPLE,), generator=self.generator).to(values.device)]
        self.samples.setdefault(name, []).append(values.cpu())

    def by_layer(self) -> dict[str, Range]:
        """The range of all that was seen, by layer in the order of use."""
        ends = torch.tensor([TAIL, 1 - TAIL])
        out = {}
        for name, parts in self.samples.items():
            low, high = torch.cat(parts).quantile(ends).tolist()
            out[name] = Range(low, high, *self.extents[name])
        return out


@contextmanager
def watch_ranges(clip: CLIP) -> Iterator[Ranges]:
    """Collect what enters the linear and convolutional layers of the image tower inside the block.

    These are the inputs that get a quantizer. Where consecutive layers read the same tensor, as q, k and v do, only
    the first is listed. Smallest and largest are exact; low and high come from a sample with a fixed seed.
    """
    names: dict[nn.Module, str] = {
        module: f"image.{name}"
        for name, module in clip.image.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    seen = Ranges(names)
    with removed_after([module.register_forward_pre_hook(seen.see) for module in names]):
        yield seen


def fit_ranges(ranges: Mapping[str, Range], reference: Mapping[str, Range]) -> dict[str, Fit]:
    """Each layer's range relative to the reference's, as `Fit` says.

    A layer at which the reference has no width is left out, since nothing can be relative to it. Raises DataError if
    that is so everywhere, or if the layers differ.
    """
    if ranges.keys() != reference.keys():
        raise DataError("The ranges are of different layers, expected those of one model; measure both sets with it.")
    out = {
        name: fit(observed, reference[name])
        for name, observed in ranges.items()
        if reference[name].low < reference[name].high
    }
    if not out:
        raise DataError("The reference images give every layer a single value; give pictures that differ.")
    return out


def fit(observed: Range, reference: Range) -> Fit:
    width = reference.high - reference.low
    shared = max(0.0, min(observed.high, reference.high) - max(observed.low, reference.low))
    union = (observed.high - observed.low) + width - shared
    return Fit(
        width=(observed.high - observed.low) / width,
        extent=(observed.largest - observed.smallest) / (reference.largest - reference.smallest),
        overlap=shared / union,
    )
