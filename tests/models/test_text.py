"""Folding the begin-of-text position of the text tower into constants changes no embedding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d4c.errors import DataError
from d4c.models.clip import CLIP
from d4c.models.inputs.tokenizer import tokenize

WORDS = ["cat", "green", "the", "roof", "frog", "of", "old"]


def folded(clip: CLIP) -> CLIP:
    """Return a copy whose begin-of-text position is constant."""
    clip = copy.deepcopy(clip)
    clip.text.fold_constants(tokenize(""))
    return clip


@settings(max_examples=15, deadline=None)
@given(prompts=st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=5))
@torch.no_grad()
def test_folding_changes_no_embedding(demo_vit: CLIP, prompts: list[str]) -> None:
    tokens = tokenize(prompts)
    torch.testing.assert_close(folded(demo_vit).encode_text(tokens), demo_vit.encode_text(tokens), rtol=1e-4, atol=1e-5)


def test_states_and_live_positions_are_those_after_the_begin(demo_rn: CLIP) -> None:
    tokens = tokenize(["a cat", "a very old frog"])
    whole, shortened = demo_rn.text, folded(demo_rn).text
    assert torch.equal(shortened.embed(tokens), whole.embed(tokens)[:, 1:])
    live, live_of_whole = shortened.live(tokens), whole.live(tokens)
    assert live is not None
    assert live_of_whole is not None
    assert torch.equal(live, live_of_whole[:, 1:])


def test_prompts_that_begin_otherwise_are_refused(demo_vit: CLIP) -> None:
    with pytest.raises(DataError, match="begins with the token 2368"):
        folded(demo_vit).encode_text(tokenize("cat")[:, 1:])


def test_prompts_that_are_not_tokens_are_refused(demo_vit: CLIP) -> None:
    prompts: Any = ["a cat"]
    with pytest.raises(DataError, match="The prompts are of type list, expected a tensor of token ids"):
        demo_vit.encode_text(prompts)
