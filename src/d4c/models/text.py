"""The text transformer of CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from d4c.errors import DataError
from d4c.models.anatomy import ChannelAxis, Published
from d4c.models.layers import Block, split_heads
from d4c.models.tower import Tower, drawn
from d4c.models.tower_config import TextConfig


class TextTransformer(Tower):
    """Token and position tables, pre-norm blocks, and a projection of one position.

    CLIP's attention is causal and only the end-of-text position is read. So positions after the longest prompt of a
    batch never reach the output. With `trim`, they are dropped, which changes no embedding. The published method counts
    them during calibration and sets `trim` to false. In SigLIP every position counts, padded ones included, whatever
    `trim` is.

    Causality also makes CLIP's begin-of-text position the same in every prompt. `fold_constants` turns its keys and
    values into constants; from then on, the states hold only the positions after it. Where the states of all positions
    are read, they are constants as well, which `outputs` puts before the others.

    Args:
        config: The architecture.
        embed_dim: Width D of the embeddings.
    """

    embed_parts = ("token_embedding", "positional_embedding")
    head_parts = ("norm_final", "projection")
    head_reads_inputs = True
    first_layer = "token_embedding"
    eight_bit_layers = ("projection",)
    published = Published(
        layers=r"blocks\..*",
        eight_bits=("blocks.*.mlp.fc[12]",),
        per_channel=(r"blocks\.\d+\.(attn\.[qkv]|mlp\.fc[12])",),
    )

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        c = config
        self.eos_id, self.causal, self.pooling = c.eos_id, c.causal, c.pooling
        self.every_position_counts = c.every_position_counts
        # Only CLIP's own tokenizer is known to begin every prompt with the same token.
        self.begins_alike = c.causal and c.tokenizer == "clip"
        self.begin_id: int | None = None
        self.begin_states: Tensor | None
        self.register_buffer("begin_states", None)
        self.all_states = c.all_states
        self.trim = True
        self.vocab_size = c.vocab_size
        self.token_embedding = nn.Embedding.from_pretrained(drawn(c.vocab_size, c.width, std=1), freeze=False)
        self.positional_embedding = drawn(c.context_length, c.width, std=0.01)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.mlp_width, c.activation, c.norm_eps) for _ in range(c.layers)
        )
        self.norm_final = nn.LayerNorm(c.width, c.norm_eps)
        self.projection = nn.Linear(c.width, embed_dim, bias=c.projection_bias) if c.projection else nn.Identity()

    @property
    def trims(self) -> bool:
        """Whether positions after the end of a prompt are left out."""
        return self.trim and not self.every_position_counts

    @torch.no_grad()
    def fold_constants(self, inputs: Tensor) -> None:
        """Turn the keys and values of the begin-of-text position into constants; embeddings stay equal.

        Large activations that a model has only at this position then no longer reach a quantizer. Where attention is
        not causal or prompts begin with different tokens, nothing is constant.

        Args:
            inputs: Token ids [N, L] of any prompts.
        """
        if not self.begins_alike:
            return
        begin_id = int(inputs[0, 0])
        states = list(self.states(torch.tensor([[begin_id]], device=self.positional_embedding.device)))
        for block, x in zip(self.blocks, states, strict=False):
            assert isinstance(block, Block)
            attn, y = block.attn, block.norm1(x)
            key, value = (split_heads(layer(y), attn.heads)[0, :, 0] for layer in (attn.k, attn.v))
            attn.first_key, attn.first_value = key, value
        if self.all_states:
            self.begin_states = torch.cat([x[0] for x in states[-2:]])
        self.begin_id = begin_id

    def expect_begin(self, begin_id: int | None) -> None:
        """Allocate the constants of `fold_constants`, to be loaded from a saved copy of this tower.

        Args:
            begin_id: The token that prompts of the copy begin with; None if its constants were not folded.
        """
        self.begin_id = begin_id
        for block in self.blocks if begin_id is not None else ():
            assert isinstance(block, Block)
            heads = block.attn.heads
            shape = (heads, self.positional_embedding.shape[1] // heads)
            block.attn.first_key, block.attn.first_value = torch.empty(shape), torch.empty(shape)
        if begin_id is not None and self.all_states:
            self.begin_states = torch.empty(2, self.positional_embedding.shape[1])

    def check_tokens(self, tokens: Tensor) -> None:
        """Raise DataError for prompts that this tower cannot read.

        They have ids beyond the table, do not begin with the token that `fold_constants` saw, or are not padded where
        every position counts.
        """
        prompts: object = tokens
        if not isinstance(prompts, Tensor):
            kind = type(prompts).__name__
            raise DataError(f"The prompts are of type {kind}, expected a tensor of token ids; give `tokenize` them.")
        context, vocabulary = len(self.positional_embedding), self.vocab_size
        if tokens.ndim != 2 or tokens.shape[1] > context or (self.every_position_counts and tokens.shape[1] != context):
            expected = f"[N, {context}]" if self.every_position_counts else f"[N, 1 to {context}]"
            raise DataError(
                f"The tokens have shape {list(tokens.shape)}, expected {expected}; make the tokens with the tokenizer "
                "of this model."
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise DataError(
                f"The tokens range from {int(tokens.min())} to {int(tokens.max())}, expected ids from 0 to "
                f"{vocabulary - 1}; make the tokens with the tokenizer of this model."
            )
        if self.begin_id is None:
            return
        others = tokens[:, 0][tokens[:, 0] != self.begin_id]
        if len(others):
            raise DataError(
                f"A prompt begins with the token {int(others[0])}, expected {self.begin_id}, the begin of text; "
                "make the tokens with the tokenizer of this model."
            )

    def _after_begin(self, tokens: Tensor) -> Tensor:
        """Return the tokens that have states: all, or those after a folded begin-of-text."""
        return tokens if self.begin_id is None else tokens[:, 1:]

    def pooled_position(self, tokens: Tensor) -> Tensor:
        """Return the position that becomes the embedding, int64 [N], in each row of token ids [N, L]."""
        if self.pooling == "last":
            return torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
        if self.eos_id is None:
            return tokens.argmax(-1)
        return (tokens == self.eos_id).int().argmax(-1)

    def crop(self, inputs: Tensor) -> Tensor:
        """Drop the positions after the longest prompt from token ids [N, L], where they are left out."""
        return inputs[:, : int(self.pooled_position(inputs).max()) + 1] if self.trims and len(inputs) else inputs

    def batches(self, inputs: Tensor, size: int) -> Iterator[Tensor]:
        """Yield batches of prompts of equal length, so that each position of a batch reaches the output.

        Where every position counts or `trim` is not set, the batches keep the order of the prompts.
        """
        if not self.trims:
            yield from inputs.split(size)
            return
        ends = self.pooled_position(inputs)
        for end in ends.unique().tolist():
            yield from inputs[ends == end].split(size)

    def live(self, inputs: Tensor) -> Tensor | None:
        """Return which states reach the output, boolean [N, L]; None, which stands for all of them."""
        if not self.trims:
            return None
        tokens = self._after_begin(inputs)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return positions <= self.pooled_position(tokens)[:, None]

    def read_rows(self, inputs: Tensor) -> Tensor:
        """Return the row of the state that becomes the embedding, int64 [N]."""
        return self.pooled_position(self._after_begin(inputs))

    def embed(self, inputs: Tensor) -> Tensor:
        """Map token ids [N, L] to states [N, L, C], or [N, L - 1, C] with a folded begin-of-text."""
        length, tokens = inputs.shape[1], self._after_begin(inputs)
        return self.token_embedding(tokens) + self.positional_embedding[length - tokens.shape[1] : length]

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x, causal=self.causal)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Map the states after the last block to embeddings [N, D]."""
        samples = torch.arange(len(inputs), device=x.device)
        return self.projection(self.norm_final(x[samples, self.read_rows(inputs)]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map token ids [N, L] to embeddings [N, D], which are not normalized to unit length.

        Raises:
            DataError: `check_tokens` refuses the token ids.
        """
        self.check_tokens(inputs)
        return super().forward(inputs)

    def outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        self.check_tokens(inputs)
        *_, before, x = self.states(inputs)
        rows = {"penultimate": before, "last": x}
        if self.begin_states is not None:
            begin = self.begin_states[:, None, None].expand(-1, len(inputs), 1, -1)
            rows = {name: torch.cat([begin[i], part], 1) for i, (name, part) in enumerate(rows.items())}
        return {"embedding": self.head(x, inputs), **rows, "last": self.norm_final(rows["last"])}

    def channel_axes(self) -> list[ChannelAxis]:
        axes = super().channel_axes()
        if isinstance(self.projection, nn.Identity) or self.all_states:
            return axes
        return [*axes, ChannelAxis("norm_final", writers=("norm_final",), readers=("projection",))]
