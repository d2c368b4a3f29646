"""The attention pool at the end of SigLIP's image towers, whose only query is learned."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from d4c.models.anatomy import ChannelAxis, SharedInput
from d4c.models.layers import MLP, Watcher, WeightedSum, join_heads, split_heads
from d4c.models.tower import Part
from d4c.models.tower_config import NORM_EPS, Activation


class LatentPool(Part):
    """Attention of one learned query over all rows, then y + mlp(norm(y)).

    The query q is the same for every image. So the score of a row x in a head, q (W_k x + b_k) / sqrt(d), is linear
    in x: one layer of as many outputs as there are heads takes the place of the projections to queries and keys.

    Args:
        width: Channels C of the rows and of the result.
        heads: Attention heads.
        hidden: Hidden channels of the MLP.
        act: Activation of the MLP.
        eps: What the norm adds to variances.
    """

    def __init__(self, width: int, heads: int, hidden: int, act: Activation, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.heads = heads
        self.scores = nn.Linear(width, heads)
        self.v = nn.Linear(width, width)
        self.context = WeightedSum()
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, hidden, act)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [N, L, C] to [N, C]."""
        weights = self.scores(x).transpose(1, 2).softmax(-1)
        context = self.context(weights[:, :, None], split_heads(self.v(x), self.heads))
        y = self.out(join_heads(context)).squeeze(1)
        return y + self.mlp(self.norm(y))

    def watch_summary(self, record: Watcher) -> list[RemovableHandle]:
        """As `AttentionProducts.watch_summary`, of the only query."""

        def weigh(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            record(inputs[0], output.softmax(1).mean(2))

        return [self.scores.register_forward_hook(weigh)]

    def shared_inputs(self) -> list[SharedInput]:
        return [SharedInput((("scores", 0), ("v", 0)))]

    def channel_axes(self) -> list[ChannelAxis]:
        return [
            ChannelAxis("vo", writers=("v",), readers=("out",), heads=self.heads),
            ChannelAxis("norm", writers=("norm",), readers=("mlp.fc1",)),
        ]

    def rigid_inputs(self) -> list[str]:
        return ["mlp.fc2"]
