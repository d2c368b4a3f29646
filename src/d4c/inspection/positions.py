"""Largest activations at each position of the text tower: does the begin-of-text position set the ranges?

In large language models a few channels of the first position are hundreds of times larger than all others
(arXiv 2402.17762). Attention is causal, so that what this position gives never depends on the prompt; ranges as wide
as its values would be spent on constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from d4c.errors import DataError
from d4c.inspection.features import BATCH, removed_after
from d4c.models.clip import CLIP

PARTS = ("norm1", "attn.q", "attn.k", "attn.v", "norm2", "mlp.act")
"""What quantizers of a block read, by the module that gives it. A context is a mean of values, no larger than they."""


@torch.no_grad()
def position_peaks(clip: CLIP, tokens: Tensor) -> dict[str, Tensor]:
    """Largest absolute output [L] at each position of every text block and of its parts, by module name.

    `tokens` [N, context length] are prompts and L is the length of the longest. Positions after the end-of-text of a
    prompt do not count. Raises DataError if there is no prompt.
    """
    if not len(tokens):
        raise DataError("There is no prompt to measure the text tower with; give at least one.")
    tokens = clip.text.crop(tokens.to(clip.device))
    blocks = [f"text.blocks.{i}" for i in range(len(clip.text.blocks))]
    names = [name for block in blocks for name in (block, *(f"{block}.{part}" for part in PARTS))]
    peaks = {name: torch.zeros(tokens.shape[1], device=tokens.device) for name in names}
    live: Tensor | None = None

    def watch(peak: Tensor) -> Callable[[object, object, Tensor], None]:
        def see(_module: object, _inputs: object, output: Tensor) -> None:
            peaks_here = output.abs().amax(2)
            batch_peak = (peaks_here if live is None else peaks_here * live).amax(0)
            peak[: len(batch_peak)] = torch.maximum(peak[: len(batch_peak)], batch_peak)

        return see

    with removed_after([clip.get_submodule(name).register_forward_hook(watch(peak)) for name, peak in peaks.items()]):
        for part in tokens.split(BATCH):
            live = clip.text.live(clip.text.crop(part))
            clip.encode_text(part)
    return {name: peak.cpu() for name, peak in peaks.items()}


def begin_of_text_ratios(peaks: Mapping[str, Tensor]) -> dict[str, float]:
    """The peak of the first position over the largest of the others, by name; well above 1 where it sets the range."""
    return {name: float(peak[0] / peak[1:].max()) for name, peak in peaks.items()}
