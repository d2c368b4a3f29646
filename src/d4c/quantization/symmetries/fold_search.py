"""Searches how strongly to fold the channel ranges of each LayerNorm's output: so that its readers err least.

A full fold suits inputs of few bits, but it gives the columns of the weights different widths, which costs weights of
few bits. So where weights have fewer bits than their inputs, several strengths are tried. The error is measured in
float, but for the inputs and weights of the readers at the bits of the plan, on some hundred positions and a few output
channels. Elsewhere the fold is full if that lowers the error. benchmarks/choices compares embeddings of models without
any fold, with the full one and with the search.

Other exact folds of attention are not used: values centered or balanced with the output projection, keys centered,
queries balanced with keys. The input of the second MLP layer has no exact fold, since the activation before it is not
linear.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.placement import LayerPlan, Plan
from d4c.quantization.ranges.search import search, search_symmetric, summarize
from d4c.quantization.ranges.thinning import thin
from d4c.quantization.symmetries.folding import fold_channel_ranges, norm_axes

STRENGTHS = (0.0, 0.25, 0.5, 1.0)
"""Strengths that are tried; 0 moves the ranges of the channels onto one middle and leaves their widths."""
POSITIONS = 512
"""Positions that the error is measured on."""
OUTPUTS = 32
"""Output channels that the error is measured on, over all readers of a norm."""


class FoldSite:
    """A LayerNorm with the linear layers that read it, which records what passes through it until a fold is chosen.

    Args:
        norm: The LayerNorm over C channels.
        readers: All layers that read its output.
        plans: The formats that the readers will be quantized in.

    Attributes:
        low: Smallest output of each channel over all batches [C].
        high: Largest output of each channel [C].
        sample: The first inputs of the largest batch [n, L, C].
    """

    def __init__(self, norm: nn.LayerNorm, readers: Sequence[nn.Linear], plans: Sequence[LayerPlan]) -> None:
        self.layers, self.plans = nn.ModuleList([norm, *readers]), plans
        self.strengths = STRENGTHS if narrow_weights(plans) else STRENGTHS[-1:]
        self.low = self.high = self.sample = torch.empty(0)
        self.rows = 0
        self.handle = norm.register_forward_hook(self._record)

    def _record(self, _norm: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        low, high = y.flatten(0, -2).aminmax(dim=0)
        self.low = torch.minimum(self.low, low) if self.rows else low
        self.high = torch.maximum(self.high, high) if self.rows else high
        if len(y) > self.rows:
            self.rows = len(y)
            self.sample = inputs[0][: max(1, POSITIONS // y.shape[1])].clone()

    def choose(self) -> None:
        """Fold in place at the strength of least error, or not at all if that has the least."""
        self.handle.remove()
        least, best = self.error(self.layers), None
        for strength in self.strengths:
            norm, *readers = folded = copy.deepcopy(self.layers)
            fold_channel_ranges(norm, readers, self.low, self.high, strength)  # type: ignore[arg-type]
            error = self.error(folded)
            if error < least:
                least, best = error, folded
        if best is not None:
            self.layers.load_state_dict(best.state_dict())

    @torch.no_grad()
    def error(self, layers: nn.ModuleList) -> float:
        """Mean relative squared error of the readers' outputs, with inputs and weights quantized.

        Args:
            layers: The norm and its readers, folded or not.
        """
        norm, *readers = layers
        x = norm(self.sample).flatten(0, -2)
        weights: list[Tensor] = [reader.weight for reader in readers]  # type: ignore[misc]
        # Output channels are evenly spread: as many for q, k and v together as for a single layer.
        step = -(-sum(map(len, weights)) // OUTPUTS)
        relative_errors = 0.0
        inputs = rounded(x, self.plans[0].inputs[0])
        for weight, plan in zip((w[::step] for w in weights), self.plans, strict=True):
            assert plan.weights is not None
            expected = F.linear(x, weight)
            error = F.linear(inputs, rounded_rows(weight, plan.weights)) - expected
            spread = expected - expected.mean(0)
            relative_errors += float(error.square().sum() / spread.square().sum().clamp(min=1e-30))
        return relative_errors / len(readers)


def narrow_weights(plans: Sequence[LayerPlan]) -> bool:
    """Whether the weights of some layer have fewer bits than its input."""
    return any(p.weights is not None and p.weights.num_bits < p.inputs[0].num_bits for p in plans)


def find_sites(clip: CLIP, towers: Sequence[str], plan: Plan) -> Iterator[FoldSite]:
    """The LayerNorms of some towers whose readers all have a bias, which takes in the shift of a fold."""
    for name in towers:
        tower = clip.tower(name)
        for axis in norm_axes(tower):
            readers = [cast(nn.Linear, tower.get_submodule(reader)) for reader in axis.readers]
            if all(reader.bias is not None for reader in readers):
                norm = cast(nn.LayerNorm, tower.get_submodule(axis.writers[0]))
                yield FoldSite(norm, readers, [plan[f"{name}.{reader}"] for reader in axis.readers])


def rounded(x: Tensor, args: QuantArgs) -> Tensor:
    """A tensor, fake-quantized with a range that is searched on about a thousand of its values."""
    scale, zero_point = search(thin(summarize(x.reshape(1, -1)), 1024, 128), args.num_bits)
    return fake_quantize(x, scale, zero_point, args.qmin, args.qmax)


def rounded_rows(weight: Tensor, args: QuantArgs) -> Tensor:
    """Weights [O, I], fake-quantized with a symmetric range per row."""
    scale = search_symmetric(summarize(weight), args.qmin, args.qmax)[:, None]
    return fake_quantize(weight, scale, torch.zeros_like(scale), args.qmin, args.qmax)
