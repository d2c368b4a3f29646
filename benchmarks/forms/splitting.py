"""Splitting of loud input channels (Zhao et al., Improving Neural Network Quantization without Retraining using Outlier
Channel Splitting, ICML 2019), simulated.

A channel is read n times, each time a share x / n of it by the same column of the weight. With an offset of its own for
each copy the codes of all n add up to the code that one would have had, since

    sum over i < n of floor((k + i) / n) = k

So a channel keeps its step and gets n times the range. That is the most that n copies can bring: plain copies, without
offsets, also have n times the step. The offsets would move into the bias of a LayerNorm; behind an activation they
would be added where the copy is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.tower import replace_module
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.ranges.output_error import OutputObserver

PEAK_IMAGES, BATCH = 32, 32
"""Images on which channels to split are chosen, as loud channels are; and how many run at once."""


class SplitQuantizer(nn.Module):
    """Rounds an activation whose channels are read several times.

    Args:
        args: Number format of the copies.
        copies: How often each channel is read [C].
        scale: Step of all copies.
        zero_point: Their zero point.
    """

    loud = None
    """None of the channels has a scale of its own."""

    def __init__(self, args: QuantArgs, copies: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.args, self.copies, self.scale, self.zero_point = args, copies, scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        return rounded(x, self.args, self.copies, self.scale, self.zero_point)


def rounded(x: Tensor, args: QuantArgs, copies: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The sum of all copies of each channel [..., C], rounded."""
    low, high = copies * (args.qmin - zero_point), copies * (args.qmax - zero_point)
    return (x / scale).round().clamp(low, high) * scale


class SplitOutputObserver(OutputObserver):
    """Chooses the range of least error of a layer's output for copies; it is given one copy of each channel."""

    def __init__(self, args: QuantArgs, name: str, weight: Tensor, copies: Tensor) -> None:
        super().__init__(args, name, weight * copies)
        self.copies = copies

    def _least(self, candidates: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        (rows,), n = self.rows, self.copies
        errors = [
            ((rounded(rows * n, self.args, n, *candidate) / n - rows) @ self.readers.T).square().sum()
            for candidate in candidates
        ]
        return candidates[int(torch.stack(errors).argmin())]


def copies_of(peaks: Tensor, extra: int) -> Tensor:
    """How often each channel is read when always the one is split whose copies have the largest peak, `extra` times."""
    copies = torch.ones_like(peaks)
    for _ in range(extra):
        copies[(peaks / copies).argmax()] += 1
    return copies


@torch.no_grad()
def split(clip: CLIP, float_clip: CLIP, pixels: Tensor, extra: dict[str, int]) -> None:
    """Split input channels of a calibrated image tower, in place, and choose the ranges of what they have become.

    Args:
        clip: A CLIP whose ranges are chosen.
        float_clip: The float CLIP that it was converted from.
        pixels: Calibration pixels [N, 3, S, S].
        extra: How many copies to add for each layer, by its name in the image tower. Layers that share an input are
            named by the first of them.
    """
    peaks: dict[str, Tensor] = {}
    few = pixels[:: -(-len(pixels) // PEAK_IMAGES)]
    _watch(float_clip, few, extra, lambda name, x: peaks.update({name: _larger(peaks.get(name), x)}))
    copies = {name: copies_of(peaks[name], count) for name, count in extra.items()}
    observers = {name: _observer(clip, name, copies[name]) for name in extra}
    _watch(
        float_clip, pixels, extra, lambda name, x: observers[name].add(_as_observed(observers[name], x, copies[name]))
    )
    replacements: dict[ActivationQuantizer, SplitQuantizer] = {}
    for name, observer in observers.items():
        usual = _layer(clip, name).input_quantizer
        replacements[usual] = SplitQuantizer(usual.args, copies[name], *observer.finish())
    for name, layer in list(clip.image.named_modules()):
        if isinstance(layer, QuantizedLinear) and layer.input_quantizer in replacements:
            replace_module(clip.image, f"{name}.input_quantizer", replacements[layer.input_quantizer])


def _layer(clip: CLIP, name: str) -> QuantizedLinear:
    layer = clip.image.get_submodule(name)
    assert isinstance(layer, QuantizedLinear)
    return layer


def _larger(peaks: Tensor | None, x: Tensor) -> Tensor:
    new = x.abs().flatten(0, -2).amax(0)
    return new if peaks is None else torch.maximum(peaks, new)


def _observer(clip: CLIP, name: str, copies: Tensor) -> Observer:
    """The rule that d4c chooses the range of this input by."""
    layer = _layer(clip, name)
    args = layer.input_quantizer.args
    if name in clip.image.rigid_inputs() and args.num_bits < 8:
        return SplitOutputObserver(args, name, layer.source_weight(), copies)
    return Observer(args, name)


def _as_observed(observer: Observer, x: Tensor, copies: Tensor) -> Tensor:
    """One copy of each channel where outputs are compared, and all copies where values are."""
    share = x / copies
    return share if isinstance(observer, SplitOutputObserver) else share.repeat_interleave(copies.long(), -1)


def _watch(clip: CLIP, pixels: Tensor, names: dict[str, int], see: Callable[[str, Tensor], None]) -> None:
    """Run the image tower and show what some of its layers read."""
    hooks = [
        clip.image.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: see(name, x[0]))
        for name in names
    ]
    try:
        for batch in pixels.split(BATCH):
            clip.image(batch)
    finally:
        for hook in hooks:
            hook.remove()
