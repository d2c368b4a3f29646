"""The causal text transformer of CLIP."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from d4c.errors import DataError
from d4c.models.config import TextConfig
from d4c.models.layers import Block, split_heads
from d4c.models.tower import ChannelAxis, Published, Tower


class TextTransformer(Tower):
    """Token and position tables, causal pre-norm blocks, and a projection of the end-of-text position.

    Attention is causal and only the end-of-text position is read, so positions behind the longest prompt of a
    batch never reach the output; `trim` drops them, which changes no embedding. The published method counts
    all of them during calibration and sets `trim` to false.

    By causality, too, the begin-of-text position is the same in every prompt: `fold_constants` makes its keys and
    values constants, and the states are those of the positions after it.
    """

    embed_parts = ("token_embedding", "positional_embedding")
    head_parts = ("norm_final", "projection")
    head_reads_inputs = True
    first_layer = "token_embedding"
    eight_bit_layers = ("projection",)
    published = Published(
        layers=r"blocks\..*",
        eight_bits=(r"blocks\.\d+\.mlp\.fc[12]",),
        per_channel=(r"blocks\.\d+\.(attn\.[qkv]|mlp\.fc[12])",),
    )

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
    def fold_constants(self, inputs: Tensor) -> None:
        """Compute the keys and values of the begin-of-text position, the first of all `inputs` [N, L], once.

        Embeddings stay equal. Large activations that a model has at this position alone no longer reach a quantizer.
        """
        begin_id = int(inputs[0, 0])
        x = self.embed(torch.tensor([[begin_id]], device=self.positional_embedding.device))
        for block in self.blocks:
            assert isinstance(block, Block)
            attn, y = block.attn, block.norm1(x)
            key, value = (split_heads(layer(y), attn.heads)[0, :, 0] for layer in (attn.k, attn.v))
            x = block(x, causal=True)
            attn.first_key, attn.first_value = key, value
        self.begin_id = begin_id

    def expect_begin(self, begin_id: int | None) -> None:
        """Make room for the keys and values that `fold_constants` computed in another copy of this tower."""
        self.begin_id = begin_id
        for block in self.blocks if begin_id is not None else ():
            assert isinstance(block, Block)
            heads = block.attn.heads
            shape = (heads, self.positional_embedding.shape[1] // heads)
            block.attn.first_key, block.attn.first_value = torch.empty(shape), torch.empty(shape)

    def check_begin(self, tokens: Tensor) -> None:
        """Raise DataError for prompts that do not begin with the token that `fold_constants` saw."""
        if self.begin_id is not None and not bool((tokens[:, 0] == self.begin_id).all()):
            raise DataError(
                f"A prompt begins with the token {int(tokens[tokens[:, 0] != self.begin_id][0, 0])}, but this model "
                f"keeps what follows from {self.begin_id}, the begin of text; make the tokens with its tokenizer."
            )

    def _after_begin(self, tokens: Tensor) -> Tensor:
        """The tokens that have states."""
        return tokens if self.begin_id is None else tokens[:, 1:]

    def end_of_text(self, tokens: Tensor) -> Tensor:
        """Position of end-of-text in each row of [N, L]: [N]."""
        if self.eos_id is None:
            return tokens.argmax(-1)
        return (tokens == self.eos_id).int().argmax(-1)

    def crop(self, inputs: Tensor) -> Tensor:
        """[N, L] without the positions that no prompt of the batch needs, when `trim` is set."""
        return inputs[:, : int(self.end_of_text(inputs).max()) + 1] if self.trim and len(inputs) else inputs

    def batches(self, inputs: Tensor, size: int) -> Iterator[Tensor]:
        """Token ids [N, L] in batches of equal prompt length, so that no batch holds a position that is not needed.

        With `trim` false every position counts and the batches are as they come.
        """
        if not self.trim:
            yield from inputs.split(size)
            return
        length = self.end_of_text(inputs)
        for value in length.unique().tolist():
            yield from inputs[length == value].split(size)

    def live(self, inputs: Tensor) -> Tensor | None:
        """Boolean [N, L] of the states that reach the output; None, for all of them, when `trim` is not set."""
        if not self.trim:
            return None
        tokens = self._after_begin(inputs)
        position = torch.arange(tokens.shape[1], device=tokens.device)
        return position <= self.end_of_text(tokens)[:, None]

    def read_rows(self, inputs: Tensor) -> Tensor:
        """The row of the state that holds end-of-text, int64 [N]."""
        return self.end_of_text(self._after_begin(inputs))

    def embed(self, inputs: Tensor) -> Tensor:
        """[N, L] token ids to the states that enter the first block: [N, L, C], or [N, L - 1, C] after a kept begin."""
        length, tokens = inputs.shape[1], self._after_begin(inputs)
        return self.token_embedding(tokens) + self.positional_embedding[length - tokens.shape[1] : length]

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x, causal=True)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """States after the last block to the embedding [N, D]."""
        samples = torch.arange(len(inputs), device=x.device)
        return self.projection(self.norm_final(x[samples, self.read_rows(inputs)]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Token ids [N, L] to embeddings [N, D], not normalized to unit length."""
        self.check_begin(inputs)
        return super().forward(inputs)

    def channel_axes(self) -> list[ChannelAxis]:
        return [*super().channel_axes(), ChannelAxis("norm_final", writers=("norm_final",), readers=("projection",))]
