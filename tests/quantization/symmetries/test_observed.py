"""What passes through an axis is recorded over all batches, and without what is constant."""

from __future__ import annotations

import pytest
import torch

from d4c.models.clip import CLIP
from d4c.quantization.symmetries.observed import Observed, observe


@pytest.mark.parametrize("shape", [(12, 5, 8), (12, 8, 3, 3), (12, 8)])
def test_batches_add_up_to_the_whole(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    whole, parts = Observed(heads=2), Observed(heads=2)
    whole.add(x)
    for part in x.split([5, 4, 3]):
        parts.add(part)
    for name in ("low", "high", "mean", "deviation", "width"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    torch.testing.assert_close(parts.moments(), whole.moments())
    torch.testing.assert_close(parts.moments(centered=True), whole.moments(centered=True))
    rows = x.movedim(1 if x.ndim == 4 else -1, -1).reshape(-1, 8)
    torch.testing.assert_close(whole.deviation, rows.std(0, correction=0))
    torch.testing.assert_close(whole.moments(centered=True)[1], torch.cov(rows[:, 4:].T, correction=0))


def test_the_begin_of_text_is_left_out(demo_vit: CLIP, prompts: list[str]) -> None:
    tower = demo_vit.text
    tokens = demo_vit.tokenize(prompts)
    (axis,) = (axis for axis in tower.channel_axes() if axis.name == "blocks.0.norm1")
    seen = observe(tower, tokens, [axis])["blocks.0.norm1"]
    assert seen.count == int(tower.pooled_position(tokens).sum())
    assert tower.begin_id is None
