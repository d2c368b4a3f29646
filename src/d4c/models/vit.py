"""The vision transformer of CLIP and SigLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis, Patches, Positions, Published
from d4c.models.layers import ROW_READERS, Block
from d4c.models.pool import LatentPool
from d4c.models.tower import Tower, drawn
from d4c.models.tower_config import ViTConfig


class VisionTransformer(Tower):
    """Patches, pre-norm blocks, and one row of the last state, or all of them, as the embedding.

    The configuration says what of it there is: a class token, norms, the kind of pooling, a projection.

    Args:
        config: The architecture.
        embed_dim: Width D of the embeddings.
    """

    embed_parts = ("patch_embed", "class_embedding", "positional_embedding", "norm_pre")
    head_parts = ("norm_post", "pool", "projection")
    first_layer = "patch_embed"
    costly_parts = ("patch_embed",)
    eight_bit_layers = ("patch_embed", "projection", "pool.*")
    class_embedding: nn.Parameter | None
    norm_pre: nn.Module
    pool: nn.Module
    projection: nn.Module
    published = Published(layers=r"blocks\..*", per_channel=(r"blocks\.\d+\.(attn\.[qkv]|mlp\.fc1)",))

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        c = config
        self.pooling, self.norm_first, self.first_patch = c.pooling, c.norm_first, int(c.class_token)
        self.all_states = c.all_states
        self.embedding_row = 0 if c.pooling == "token" and not c.all_states else None
        self.patch_embed = nn.Conv2d(3, c.width, c.patch_size, c.patch_size, bias=c.patch_bias)
        token = drawn(c.width, std=c.width**-0.5) if c.class_token else None
        self.register_parameter("class_embedding", token)
        rows = (c.image_size // c.patch_size) ** 2 + self.first_patch
        self.positional_embedding = drawn(rows, c.width, std=c.width**-0.5)
        self.norm_pre = nn.LayerNorm(c.width, c.norm_eps) if c.norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.mlp_width, c.activation, c.norm_eps) for _ in range(c.layers)
        )
        self.norm_post = nn.LayerNorm(c.width, c.norm_eps)
        self.pool = (
            LatentPool(c.width, c.heads, c.mlp_width, c.activation, c.norm_eps)
            if c.pooling == "attention"
            else nn.Identity()
        )
        self.projection = nn.Linear(c.width, embed_dim, bias=False) if c.projection else nn.Identity()

    def embed(self, inputs: Tensor) -> Tensor:
        """Map pixels [N, 3, S, S] to the rows [N, L, C] that enter the first block: a class token, if any, patches."""
        x = self.patch_embed(inputs).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], 1)
        return self.norm_pre(x + self.positional_embedding)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Map the rows [N, L, C] after the last block to embeddings [N, D]."""
        if self.norm_first:
            return self.projection(self.pooled(self.norm_post(x)))
        return self.projection(self.norm_post(self.pooled(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """Map rows [N, L, C] to [N, C]."""
        if self.pooling == "token":
            return x[:, 0]
        return x[:, self.first_patch :].mean(1) if self.pooling == "average" else self.pool(x)

    def patch_embeddings(self, inputs: Tensor) -> Tensor:
        """Map pixels [N, 3, S, S] to embeddings [N, P, D]: what `head` makes of each patch in place of the class."""
        *_, x = self.states(inputs)
        return self.projection(self.norm_post(x[:, 1:]))

    def outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        *_, before, x = self.states(inputs)
        last = self.norm_post(x) if self.norm_first else x
        return {"embedding": self.head(x, inputs), "penultimate": before, "last": last}

    def class_token_readers(self) -> list[str]:
        if self.class_embedding is None:
            return []
        return [f"blocks.{i}.{layer}" for i in range(len(self.blocks)) for layer in ROW_READERS]

    def patches(self) -> Patches:
        attentions = tuple(f"blocks.{i}.attn" for i in range(len(self.blocks)))
        first, pool = self.first_patch, isinstance(self.pool, LatentPool)
        return Patches(attentions, first, summary="pool" if pool else attentions[-1], summary_first=first)

    @property
    def positions(self) -> Positions:
        return Positions("positional_embedding", self.first_patch, int(self.patch_embed.kernel_size[0]))

    def channel_axes(self) -> list[ChannelAxis]:
        if isinstance(self.pool, LatentPool):
            readers = ["pool.scores", "pool.v"]
        else:
            readers = ["projection"] if isinstance(self.projection, nn.Linear) else []
        axes = super().channel_axes()
        if self.all_states and self.norm_first:
            return axes  # what leaves the norm is read as it is
        return [*axes, ChannelAxis("norm_post", writers=("norm_post",), readers=tuple(readers))] if readers else axes
