"""An image tower alone has images where the loss needs no prompt."""

from __future__ import annotations

import pytest
import torch

import d4c
from d4c.errors import SettingError
from d4c.models.clip import CLIP


@pytest.mark.parametrize("settings", [{"preset": "paper"}, {"preset": "quick"}])
def test_similarity_of_patches_needs_no_text_tower(lone_image: CLIP, settings: dict[str, str]) -> None:
    first, second = (
        d4c.synthesize(lone_image, "pse", images=2, iterations=steps, progress=None, **settings)  # type: ignore[arg-type]
        for steps in (1, 3)
    )
    assert first.pixels.shape == (2, 3, 16, 16)
    assert not torch.equal(first.pixels, second.pixels)
    form = "published" if settings["preset"] == "paper" else "psaq-alone"
    assert second.provenance["config"]["pse_form"] == form
    assert second.prompts == ("", "")


def test_methods_that_take_prompts_are_refused_with_those_that_do_not(lone_image: CLIP) -> None:
    with pytest.raises(SettingError, match=r"method 'd4c' takes both towers, and 'lone' .* use 'pse'"):
        d4c.synthesize(lone_image, images=2, progress=None)


def test_a_text_tower_alone_is_told_to_do_without_images(lone_text: CLIP) -> None:
    with pytest.raises(SettingError, match=r"Synthesis takes the image tower.*quantize it without images"):
        d4c.synthesize(lone_text, "leaves", progress=None)
