"""The table of methods: its rows are complete, and a new method is one function and one row."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.methods.table import METHODS, Method, Needs
from d4c.synthesis.synthesize import synthesize

TINY = CLIPConfig(16, ViTConfig(16, 8, 64, 1, 1, 32), TextConfig(64, 1, 1, 32, context_length=12))


@pytest.fixture
def tiny() -> CLIP:
    return CLIP(TINY, "tiny")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_row_optimizes_or_paints(method: Method) -> None:
    assert (method.losses is None) != (method.paint is None)
    assert METHODS[method.name] is method
    assert method.summary


def test_settings_decide_what_a_method_needs() -> None:
    assert SynthesisConfig(method="pse").needs == Needs(inner_layers=True)
    assert SynthesisConfig(method="pse", pse_form="psaq").needs.prompts
    assert SynthesisConfig(method="bns", statistics="set").needs.whole_set


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, d4c.synthesis.methods.table, d4c.synthesis.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_method_that_optimizes_is_a_function_and_a_row(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def darkness(_clip: CLIP, _config: SynthesisConfig, _setup: Any, images: Tensor, _draws: Any) -> Tensor:
        return images.square().mean((1, 2, 3))

    row = Method("dark", "images without contrast", darkness, needs=lambda _: Needs(moves=True))
    monkeypatch.setitem(METHODS, "dark", row)
    made = synthesize(tiny, "dark", images=3, iterations=40, lr=0.1)
    assert made.provenance["method"] == "dark"
    assert made.provenance["loss"][-1][1] < 0.2 * made.provenance["loss"][0][1]


def test_a_new_method_that_paints_is_a_function_and_a_row(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def gray(clip: CLIP, images: int, _generator: Generator) -> Tensor:
        return clip.normalize(torch.full((images, 3, clip.image_size, clip.image_size), 0.5))

    monkeypatch.setitem(METHODS, "gray", Method("gray", "one gray", paint=gray))
    made = synthesize(tiny, "gray", images=2)
    assert (made.pictures() == 128).all()


def test_a_tower_that_a_method_cannot_serve_is_refused_before_any_work(tiny: CLIP) -> None:
    calls: list[tuple[int, int]] = []
    with pytest.raises(SettingError, match="has none; use 'pse' or 'd4c'"):
        synthesize(tiny, "bns", progress=lambda *call: calls.append(call))
    assert calls == []
