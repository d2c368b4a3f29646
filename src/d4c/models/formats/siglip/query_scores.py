"""Makes the layer of scores of a `LatentPool` from a query and the projections of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.models.formats.assemble import Source


@dataclass(frozen=True)
class QueryScores:
    """Weight or bias of the scores: of head h, q_h W_k / sqrt(d) or q_h b_k / sqrt(d), where q = W_q p + b_q.

    Attributes:
        kind: "weight" or "bias".
        query: Where the learned query p [C] is.
        q: Where W_q and b_q are.
        k: Where W_k and b_k are.
        width: Number of channels C.
        heads: Number of heads.
    """

    kind: str
    query: Source
    q: tuple[Source, Source]
    k: tuple[Source, Source]
    width: int
    heads: int

    def shapes(self, ours: torch.Size) -> dict[str, tuple[int, ...]]:
        vector, square = torch.Size([self.width]), torch.Size([self.width, self.width])
        needed = ((self.query, vector), (self.q[0], square), (self.q[1], vector), self._key(square, vector))
        return {source.key: source.shape(shape) for source, shape in needed}

    def _key(self, square: torch.Size, vector: torch.Size) -> tuple[Source, torch.Size]:
        return (self.k[0], square) if self.kind == "weight" else (self.k[1], vector)

    def take(self, state: Mapping[str, Tensor]) -> Tensor:
        weight, bias, query = (source.take(state).double() for source in (*self.q, self.query))
        by_head = (self.heads, self.width // self.heads)
        q = (weight @ query + bias).view(by_head) * by_head[1] ** -0.5
        if self.kind == "weight":
            return torch.einsum("hd,hdc->hc", q, self.k[0].take(state).double().view(*by_head, self.width))
        return (q * self.k[1].take(state).double().view(by_head)).sum(1)
