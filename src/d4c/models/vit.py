"""The vision transformer of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.config import ViTConfig
from d4c.models.layers import Block


class VisionTransformer(nn.Module):
    """Patches, a class token, pre-norm blocks, and a projection of the class token."""

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

    def embed(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] to the tokens [N, 1 + patches, C] that enter the first block."""
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(x.shape[0], 1, -1)
        return self.norm_pre(torch.cat([cls, x], 1) + self.positional_embedding)

    def head(self, x: Tensor) -> Tensor:
        """[N, 1 + patches, C] behind the last block to the embedding [N, D]."""
        return self.projection(self.norm_post(x[:, 0]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels [N, 3, S, S] to embeddings [N, D], not normalized to unit length."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
