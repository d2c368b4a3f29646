"""Prompts to token ids."""
from __future__ import annotations
from collections.abc import Sequence
from torch import Tensor
def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    raise NotImplementedError
