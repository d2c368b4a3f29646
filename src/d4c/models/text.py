"""The causal text transformer of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.config import TextConfig
from d4c.models.layers import Block


class TextTransformer(nn.Module):
    """Token and position tables, causal pre-norm blocks, and a projection of the end-of-text position.

    Attention is causal and only the end-of-text position is read, so positions behind the longest prompt of a
    batch never reach the output; `trim` drops them, which changes no embedding. The published method counts
    all of them during calibration and sets `trim` to false.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        c = config
        self.eos_id = c.eos_id
        self.trim = True
        self.token_embedding = nn.Embedding(c.vocab_size, c.width)
        self.positional_embedding = nn.Parameter(torch.randn(c.context_length, c.width) * 0.01)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.mlp_width, c.activation) for _ in range(c.layers))
        self.norm_final = nn.LayerNorm(c.width)
        self.projection = nn.Linear(c.width, embed_dim, bias=False)

    def end_of_text(self, tokens: Tensor) -> Tensor:
        """Position of end-of-text in each row of [N, L]: [N]."""
        if self.eos_id is None:
            return tokens.argmax(-1)
        return (tokens == self.eos_id).int().argmax(-1)

    def crop(self, tokens: Tensor) -> Tensor:
        """[N, L] without the positions that no prompt of the batch needs, when `trim` is set."""
        return tokens[:, : int(self.end_of_text(tokens).max()) + 1] if self.trim and len(tokens) else tokens

    def live(self, tokens: Tensor) -> Tensor:
        """Boolean [N, L] of the positions that reach the output, or all of them when `trim` is not set."""
        position = torch.arange(tokens.shape[1], device=tokens.device)
        reach = position <= self.end_of_text(tokens)[:, None]
        return reach if self.trim else torch.ones_like(reach)

    def embed(self, tokens: Tensor) -> Tensor:
        """[N, L] token ids to the states [N, L, C] that enter the first block."""
        return self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]

    def head(self, x: Tensor, tokens: Tensor) -> Tensor:
        """States behind the last block to the embedding [N, D]."""
        rows = torch.arange(len(tokens), device=x.device)
        return self.projection(self.norm_final(x[rows, self.end_of_text(tokens)]))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, L] to embeddings [N, D], not normalised to unit length."""
        tokens = self.crop(tokens)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, causal=True)
        return self.head(x, tokens)
