"""The vision transformer of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.config import ViTConfig
from d4c.models.layers import Block
from d4c.models.tower import ChannelAxis, Patches, Published, Tower


class VisionTransformer(Tower):
    """Patches, a class token, pre-norm blocks, and a projection of the class token.

    Args:
        config: The architecture.
        embed_dim: Width D of the embeddings.
    """

    embed_parts = ("patch_embed", "class_embedding", "positional_embedding", "norm_pre")
    head_parts = ("norm_post", "projection")
    first_layer = "patch_embed"
    embedding_row = 0
    costly_parts = ("patch_embed",)
    eight_bit_layers = ("patch_embed", "projection")
    published = Published(layers=r"blocks\..*", per_channel=(r"blocks\.\d+\.(attn\.[qkv]|mlp\.fc1)",))

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        c = config
        self.patch_embed = nn.Conv2d(3, c.width, c.patch_size, c.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(c.width) * c.width**-0.5)
        tokens = (c.image_size // c.patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(torch.randn(tokens, c.width) * c.width**-0.5)
        self.norm_pre = nn.LayerNorm(c.width)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.mlp_width, c.activation) for _ in range(c.layers))
        self.norm_post = nn.LayerNorm(c.width)
        self.projection = nn.Linear(c.width, embed_dim, bias=False)

    def embed(self, inputs: Tensor) -> Tensor:
        """Map pixels [N, 3, S, S] to the tokens [N, 1 + patches, C] that enter the first block."""
        x = self.patch_embed(inputs).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(x.shape[0], 1, -1)
        return self.norm_pre(torch.cat([cls, x], 1) + self.positional_embedding)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Map the tokens [N, 1 + patches, C] after the last block to embeddings [N, D]."""
        return self.projection(self.norm_post(x[:, 0]))

    def patch_embeddings(self, inputs: Tensor) -> Tensor:
        """Map pixels [N, 3, S, S] to embeddings [N, P, D]: what `head` makes of each patch in place of the class."""
        x = self.embed(inputs)
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.projection(self.norm_post(x[:, 1:]))

    def patches(self) -> Patches:
        attentions = tuple(f"blocks.{i}.attn" for i in range(len(self.blocks)))
        return Patches(attentions, first=1, summary=attentions[-1], summary_first=1)

    def channel_axes(self) -> list[ChannelAxis]:
        return [*super().channel_axes(), ChannelAxis("norm_post", writers=("norm_post",), readers=("projection",))]
