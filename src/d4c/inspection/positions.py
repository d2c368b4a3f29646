"""Measures the largest activations at each position of the text tower.

In large language models a few channels of the first position are hundreds of times larger than all others
(arXiv 2402.17762). Attention is causal, so that the values of this position never depend on the prompt. If they set the
ranges, most quantization steps are spent on constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from d4c.errors import DataError
from d4c.inspection.features import BATCH, removed_after
from d4c.models.clip import CLIP

PARTS = ("norm1", "attn.q", "attn.k", "attn.v", "norm2", "mlp.act")
"""The modules of a block whose outputs quantizers read. A context is a mean of values and never exceeds them."""


@torch.no_grad()
def position_peaks(clip: CLIP, tokens: Tensor) -> dict[str, Tensor]:
    """Measure the largest absolute output at each position of every text block and of its parts.

    Positions after the end-of-text of a prompt do not count.

    Args:
        clip: The model.
        tokens: Token ids of prompts [N, context length].

    Returns:
        Peaks [L] by module name, where L is the length of the longest prompt.

    Raises:
        DataError: There is no prompt.
    """
    if not len(tokens):
        raise DataError("There is no prompt to measure the text tower with, expected at least one; give a prompt.")
    tokens = clip.text.crop(tokens.to(clip.device))
    blocks = [f"text.blocks.{i}" for i in range(len(clip.text.blocks))]
    names = [name for block in blocks for name in (block, *(f"{block}.{part}" for part in PARTS))]
    peaks = {name: torch.zeros(tokens.shape[1], device=tokens.device) for name in names}
    live: Tensor | None = None

    def raise_to_output(peak: Tensor) -> Callable[[object, object, Tensor], None]:
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            row_peaks = output.abs().amax(2)
            batch_peak = (row_peaks if live is None else row_peaks * live).amax(0)
            peak[: len(batch_peak)] = torch.maximum(peak[: len(batch_peak)], batch_peak)

        return hook

    modules = {name: clip.get_submodule(name) for name in names}
    with removed_after([modules[name].register_forward_hook(raise_to_output(peaks[name])) for name in names]):
        for part in tokens.split(BATCH):
            live = clip.text.live(clip.text.crop(part))
            clip.encode_text(part)
    return {name: peak.cpu() for name, peak in peaks.items()}


def begin_of_text_ratios(peaks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the peak of the first position over the largest of the others, by module name.

    A ratio far above 1 says that the first position sets the range.

    Args:
        peaks: Peaks [L] by module name, from `position_peaks`.
    """
    return {name: float(peak[0] / peak[1:].max()) for name, peak in peaks.items()}
