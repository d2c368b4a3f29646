"""What reaches the quantized layers of a tower: loud channels, silent ones, and how much signal rounding leaves."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from d4c.models.layers import MatMul
from d4c.models.tower import Tower, replace_module
from d4c.quantization.doctor.diagnosis import LayerOutlook, LoudChannel
from d4c.quantization.doctor.spread import silent
from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.quantized_activations import row_peaks
from d4c.quantization.placement import LayerPlan, Plan
from d4c.quantization.ranges.search import search, search_symmetric, summarize
from d4c.quantization.ranges.thinning import thin

SAMPLES = 8
"""Images or prompts that run through a tower at a time."""
ROWS = 64
"""Rows of each batch that are kept."""
VALUES = 4096
"""The same for a product of two activations, whose rows have different lengths."""
OUTPUTS = 32
"""Rows of weights that are rounded."""
LOUD = 12.0
"""How much larger a loud channel is than the median channel; in the models that come with d4c all are below 10."""
LOW = 9.0
"""Signal-to-noise ratio in dB below which a layer is at risk: the noise has more than an eighth of the energy.
At 4 bits, softmax and hidden activations of even models have 10 to 17 dB."""


EXACT = 300.0
"""The ratio in dB of what is not changed by rounding."""


class SeenInput:
    """One input of a layer over all batches.

    Attributes:
        low: Smallest value of each channel [C]; empty for a product of two activations.
        high: Largest value of each channel [C].
        rows: A sample of rows of each batch [n, C], without a class token that has a range of its own.
    """

    def __init__(self, class_token: bool) -> None:
        self.class_token = class_token
        self.low = self.high = torch.empty(0)
        self.rows: list[Tensor] = []

    def add(self, x: Tensor, has_channels: bool) -> None:
        """Take in a batch."""
        generator = torch.Generator().manual_seed(len(self.rows))
        if not has_channels:
            values = x.flatten()
            self.rows.append(values[torch.randint(len(values), (VALUES,), generator=generator).to(x.device)][None])
            return
        rows = x.movedim(1 if x.ndim == 4 else -1, -1)
        low, high = rows.flatten(0, -2).aminmax(dim=0)
        rows = (rows[:, 1:] if self.class_token else rows).flatten(0, -2)
        self.low = torch.minimum(low, self.low) if self.rows else low
        self.high = torch.maximum(high, self.high) if self.rows else high
        self.rows.append(rows[torch.randperm(len(rows), generator=generator)[:ROWS].to(x.device)])

    @property
    def largest(self) -> Tensor:
        """Largest absolute value of each channel [C]."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def signal_to_noise(self, args: QuantArgs, loud: Sequence[int] = ()) -> float:
        """Signal-to-noise ratio in dB of the median row that is not zero, rounded with the range of least error.

        Args:
            args: The format.
            loud: Channels with a scale of their own, which are left out.
        """
        quiet = [rows[:, _others(rows.shape[1], loud)] if loud else rows for rows in self.rows]
        if args.strategy == "token":
            quiet = [rows / row_peaks(rows) for rows in quiet]
        values = torch.cat([rows.flatten() for rows in quiet])[None]
        scale, zero_point = search(thin(summarize(values), 1024, 128), args.num_bits)
        rounded = [fake_quantize(rows, scale, zero_point, args.qmin, args.qmax) for rows in quiet]
        return _median_ratio(list(zip(quiet, rounded, strict=True)))


def _others(count: int, channels: Sequence[int]) -> list[int]:
    return [channel for channel in range(count) if channel not in set(channels)]


class WatchedLayer(nn.Module):
    """A layer whose inputs are recorded; attention no longer fuses its products, since these are no `MatMul`."""

    def __init__(self, layer: nn.Module, entry: LayerPlan) -> None:
        super().__init__()
        self.layer = layer
        self.seen = [SeenInput(entry.class_token) for _ in entry.inputs]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Record the inputs and run the layer."""
        for seen, x in zip(self.seen, inputs, strict=False):
            seen.add(x, not isinstance(self.layer, MatMul))
        output: Tensor = self.layer(*inputs)
        return output


@torch.no_grad()
def watch_layers(tower: Tower, name: str, inputs: Tensor, plan: Plan) -> dict[str, WatchedLayer]:
    """Run samples through a tower and record what the layers of a plan read.

    Args:
        tower: A float tower in its best form and with folded constants, which is left as it is.
        name: "image" or "text", as layers are named in `plan`.
        inputs: Pixels [N, 3, S, S] or tokens [N, L].
        plan: The layers.
    """
    tower = copy.deepcopy(tower)
    watched = {}
    for layer, entry in plan.items():
        if layer.startswith(f"{name}."):
            watched[layer] = WatchedLayer(tower.get_submodule(layer.removeprefix(f"{name}.")), entry)
            replace_module(tower, layer.removeprefix(f"{name}."), watched[layer])
    for batch in tower.batches(inputs, SAMPLES):
        tower(batch)
    return watched


def loud_inputs(watched: dict[str, WatchedLayer], plan: Plan) -> list[LoudChannel]:
    """Channels at layer inputs that are far larger than the median one or have a scale of their own, loudest first."""
    found = []
    for name, layer in watched.items():
        if not isinstance(layer.layer, nn.Linear | nn.Conv2d):
            continue
        (seen,) = layer.seen
        live = seen.largest[seen.largest > 0]
        if len(live):
            median = float(torch.cat([rows.flatten() for rows in seen.rows]).abs().median())
            apart = plan[name].loud_channels
            loud = {*apart, *(seen.largest > LOUD * live.median()).nonzero().flatten().tolist()}
            found += [LoudChannel(name, x, float(seen.largest[x]), median, apart=x in apart) for x in sorted(loud)]
    return sorted(found, key=lambda channel: -channel.largest)


def silent_inputs(watched: dict[str, WatchedLayer], readers: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Input channels that are constant on all samples, by layer; without those of `readers`, which read an axis."""
    channels = {
        name: silent(layer.seen[0].high - layer.seen[0].low)
        for name, layer in watched.items()
        if isinstance(layer.layer, nn.Linear | nn.Conv2d) and name not in readers
    }
    return {name: indices for name, indices in channels.items() if indices}


def outlook(name: str, watched: WatchedLayer, entry: LayerPlan) -> LayerOutlook:
    """How much signal rounding to nearest leaves of the inputs and the weights of a layer."""
    loud = entry.loud_channels
    inputs = [seen.signal_to_noise(args, loud) for seen, args in zip(watched.seen, entry.inputs, strict=True)]
    weights = None if entry.weights is None else _weight_signal_to_noise(watched.layer, entry.weights)
    return LayerOutlook(
        name=name,
        bits=entry.inputs[0].num_bits if entry.inputs else 0,
        input_db=min(inputs, default=None),
        weight_bits=entry.weights.num_bits if entry.weights else 0,
        weight_db=weights,
        at_risk=any(ratio < LOW for ratio in (*inputs, weights) if ratio is not None),
    )


def _weight_signal_to_noise(layer: nn.Module, args: QuantArgs) -> float:
    """Signal-to-noise ratio in dB of the median row of the weights."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    rows = weight[:: -(-len(weight) // OUTPUTS)].detach().flatten(1)
    scale = search_symmetric(summarize(rows), args.qmin, args.qmax)[:, None]
    return _median_ratio([(rows, fake_quantize(rows, scale, torch.zeros_like(scale), args.qmin, args.qmax))])


def _median_ratio(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Signal-to-noise ratio in dB of the median row that is not zero, from rows [n, C] before and after rounding."""
    ratios = []
    for rows, rounded in pairs:
        energy, noise = rows.square().sum(1), (rounded - rows).square().sum(1)
        ratios.append((energy / noise.clamp(min=1e-30))[energy > 0])
    ratio = torch.cat(ratios)
    return min(EXACT, 10 * math.log10(float(ratio.median()))) if len(ratio) else EXACT
