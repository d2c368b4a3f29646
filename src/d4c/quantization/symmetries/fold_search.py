"""How strongly the channel ranges of a LayerNorm's output are folded: as lowers the error of what reads it most.

A full fold suits inputs of few bits, but gives the weights columns of different widths, which weights of few bits pay
for. So where weights have fewer bits than their inputs each norm is tried at several strengths, in float but for its
readers' inputs and weights at the bits of the plan, on some hundred positions and a few output channels. Elsewhere the
fold is full, if it lowers the error.

Exploratory runs, for which no script is kept. Cosines of image embeddings to the float ones with full strength
everywhere -> with the search in each norm (one seed; `bench-vit` on 400 or 1,000 images of Tiny ImageNet, `demo-vit` on
the demo pack; 64 dead leaves, in rows with a star 128 D4C images):

                        W4A8                 W6A6                 W4A4
    bench-vit, ranges   0.9847 -> 0.9879     0.9862 -> 0.9861     0.8865 -> 0.8770 *
    bench-vit, GPTQ                                               0.8912 -> 0.8845 *
    demo-vit, ranges    0.9882 -> 0.9887     0.9914 -> 0.9916     0.8094 -> 0.8143
    demo-vit, GPTQ      0.9909 -> 0.9920     0.9920 -> 0.9921     0.8248 -> 0.8133

So the search serves 4-bit weights beside 8-bit inputs, changes little at 6 bits and does harm at W4A4, where errors of
layers do not add up.

Other exact folds were tried the same way, each kept where it lowered the error of its attention's output, and are not
used, since embeddings came no nearer to the float ones. 1 - cosine with the fold off -> on (32 dead leaves, one or two
seeds, about a hundred images or two hundred prompts of Tiny ImageNet, ranges searched on fewer points than here):

- Values centered (v - c, and W_out c to the output, since probabilities sum to one): errors of attention outputs fall
  by up to 25 %, those of image embeddings rise: `bench-vit` 0.0144 -> 0.0147 at W6A6 and 0.135 -> 0.148 at W4A4,
  `demo-vit` 0.097 -> 0.115 at W4A4, with GPTQ 0.096 -> 0.113.
- Keys centered (k - c, which softmax does not see) and queries balanced with keys (q r, k / r), together: text of
  `bench-vit` 0.00318 -> 0.00320 at W6A6 and 0.00314 -> 0.00314 at W4A4; images of `demo-vit` with GPTQ
  0.0963 -> 0.0969 at W4A4 and 0.0103 -> 0.0100 at W4A8: less than between two seeds.
- Values balanced with the output projection (v / r, W_out diag(r)): text of `demo-vit` 0.0043 -> 0.0035 at W4A4, but
  of `bench-vit` 0.00314 -> 0.00314 there and 0.00040 -> 0.00043 at W4A8.

The input of the second MLP layer has no exact fold: the activation before it is not linear.
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
