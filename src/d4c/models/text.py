"""The causal text transformer of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.errors import DataError
from d4c.models.config import TextConfig
from d4c.models.layers import Block, split_heads


class TextTransformer(nn.Module):
    """Token and position tables, causal pre-norm blocks, and a projection of the end-of-text position.

    Attention is causal and only the end-of-text position is read, so positions behind the longest prompt of a
    batch never reach the output; `trim` drops them, which changes no embedding. The published method counts
    all of them during calibration and sets `trim` to false.

    By causality, too, the begin-of-text position is the same in every prompt: with `keep_begin` its keys and values
    are constants, and the states are those of the positions behind it.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        c = config
        self.eos_id = c.eos_id
        self.begin_id: int | None = None
        self.trim = True
        self.token_embedding = nn.Embedding(c.vocab_size, c.width)
        self.positional_embedding = nn.Parameter(torch.randn(c.context_length, c.width) * 0.01)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.mlp_width, c.activation) for _ in range(c.layers))
        self.norm_final = nn.LayerNorm(c.width)
        self.projection = nn.Linear(c.width, embed_dim, bias=False)

    @torch.no_grad()
    def keep_begin(self, begin_id: int) -> None:
        """Compute the keys and values of the begin-of-text position once; embeddings stay equal.

        Large activations that a model has at this position alone reach no quantizer any more.
        """
        x = self.embed(torch.tensor([[begin_id]], device=self.positional_embedding.device))
        for block in self.blocks:
            assert isinstance(block, Block)
            attn, y = block.attn, block.norm1(x)
            key, value = (split_heads(layer(y), attn.heads)[0, :, 0] for layer in (attn.k, attn.v))
            x = block(x, causal=True)
            attn.first_key, attn.first_value = key, value
        self.begin_id = begin_id

    def expect_begin(self, begin_id: int | None) -> None:
        """Make room for the keys and values that `keep_begin` computed in another copy of this tower."""
        self.begin_id = begin_id
        for block in self.blocks if begin_id is not None else ():
            assert isinstance(block, Block)
            heads = block.attn.heads
            shape = (heads, self.positional_embedding.shape[1] // heads)
            block.attn.first_key, block.attn.first_value = torch.empty(shape), torch.empty(shape)

    def check_begin(self, tokens: Tensor) -> None:
        """Raise DataError for prompts that do not begin as `keep_begin` assumed."""
        if self.begin_id is not None and not bool((tokens[:, 0] == self.begin_id).all()):
            raise DataError(
                f"A prompt begins with the token {int(tokens[tokens[:, 0] != self.begin_id][0, 0])}, but this model "
                f"keeps what follows from {self.begin_id}, the begin of text; make the tokens with its tokenizer."
            )

    def _behind_begin(self, tokens: Tensor) -> Tensor:
        """The tokens that have states."""
        return tokens if self.begin_id is None else tokens[:, 1:]

    def end_of_text(self, tokens: Tensor) -> Tensor:
        """Position of end-of-text in each row of [N, L]: [N]."""
        if self.eos_id is None:
            return tokens.argmax(-1)
        return (tokens == self.eos_id).int().argmax(-1)

    def crop(self, tokens: Tensor) -> Tensor:
        """[N, L] without the positions that no prompt of the batch needs, when `trim` is set."""
        return tokens[:, : int(self.end_of_text(tokens).max()) + 1] if self.trim and len(tokens) else tokens

    def live(self, tokens: Tensor) -> Tensor:
        """Boolean [N, L] of the states that reach the output, or all of them when `trim` is not set."""
        tokens = self._behind_begin(tokens)
        position = torch.arange(tokens.shape[1], device=tokens.device)
        reach = position <= self.end_of_text(tokens)[:, None]
        return reach if self.trim else torch.ones_like(reach)

    def embed(self, tokens: Tensor) -> Tensor:
        """[N, L] token ids to the states that enter the first block: [N, L, C], behind a kept begin [N, L - 1, C]."""
        length, behind = tokens.shape[1], self._behind_begin(tokens)
        return self.token_embedding(behind) + self.positional_embedding[length - behind.shape[1] : length]

    def head(self, x: Tensor, tokens: Tensor) -> Tensor:
        """States behind the last block to the embedding [N, D]."""
        rows = torch.arange(len(tokens), device=x.device)
        return self.projection(self.norm_final(x[rows, self.end_of_text(self._behind_begin(tokens))]))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, L] to embeddings [N, D], not normalized to unit length."""
        self.check_begin(tokens)
        tokens = self.crop(tokens)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, causal=True)
        return self.head(x, tokens)
