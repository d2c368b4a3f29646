"""Unit embeddings: whatever the batches, whatever the scale, and never NaN."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from d4c.errors import DataError
from d4c.inspection.features import BATCH, removed_after, unit_features
from d4c.models.clip import CLIP


@torch.no_grad()
def test_batches_make_no_difference(demo_rn: CLIP) -> None:
    pixels = torch.randn(BATCH + 3, 3, 64, 64)
    whole = F.normalize(demo_rn.encode_image(pixels), dim=-1)
    torch.testing.assert_close(unit_features(demo_rn, pixels), whole)


def test_a_broken_model_is_refused(demo_rn: CLIP) -> None:
    broken = copy.deepcopy(demo_rn)
    broken.get_parameter("image.pool.out.bias").data[0] = torch.nan
    with pytest.raises(DataError, match="2 of 2 image embeddings are not finite"):
        unit_features(broken, torch.zeros(2, 3, 64, 64))


def test_hooks_go_even_if_the_block_fails() -> None:
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError), removed_after([layer.register_forward_pre_hook(lambda *_: None)]):
        layer(torch.ones(2))
    assert not layer._forward_pre_hooks
