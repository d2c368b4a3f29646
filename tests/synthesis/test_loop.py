"""The loop around a step: memory that is too small, and losses that are watched."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import ResNetConfig, TextConfig
from d4c.synthesis import loop
from d4c.synthesis.synthesize import synthesize

TINY = CLIPConfig(16, ResNetConfig(32, 8, (1, 1, 1, 1), 4), TextConfig(64, 1, 1, 32, context_length=12))
FEW: dict[str, Any] = {
    "images": 7,
    "group_size": 2,
    "iterations": 3,
    "prompts": ["cat", "dog"],
    "precision": "float32",
}


@pytest.fixture
def tiny() -> CLIP:
    torch.manual_seed(0)
    return CLIP(TINY, "tiny")


def limit_memory(
    monkeypatch: pytest.MonkeyPatch, most: int, from_step: int = 0, *, in_capture: bool = False
) -> list[int]:
    """Steps fail that take more than `most` images at once; returns the sizes that were tried.

    While a step is captured, ending the capture fails as well and hides why.
    """
    tried: list[int] = []
    real = loop.evaluate_step

    def evaluate_step(clip: CLIP, config: Any, setup: Any, images: Any, draws: Any) -> Any:
        tried.append(config.batch or len(images))
        if tried[-1] > most and len(tried) > from_step:
            try:
                raise torch.cuda.OutOfMemoryError
            finally:
                if in_capture:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        return real(clip, config, setup, images, draws)

    monkeypatch.setattr(loop, "evaluate_step", evaluate_step)
    return tried


@pytest.mark.parametrize(("from_step", "in_capture"), [(0, False), (1, False), (1, True)])
def test_a_small_memory_halves_the_batch_and_changes_no_image(
    tiny: CLIP, monkeypatch: pytest.MonkeyPatch, from_step: int, in_capture: bool
) -> None:
    whole = synthesize(tiny, **FEW).pixels
    tried = limit_memory(monkeypatch, 2, from_step, in_capture=in_capture)
    with pytest.warns(UserWarning, match="not enough memory for 7 images at once; continuing with 4"):
        small = synthesize(tiny, **FEW).pixels
    assert tried[from_step:] == [7, 4, *[2] * (3 - from_step)]
    assert (small - whole).abs().mean() < 1e-5


def test_an_error_that_is_no_lack_of_memory_ends_the_synthesis(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate_step(*_: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(loop, "evaluate_step", evaluate_step)
    with pytest.raises(RuntimeError, match="something else"):
        synthesize(tiny, **FEW)


def test_nothing_waits_for_garbage_collection(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a captured step computes in is as large as all activations, and must be free once the images are made."""
    loops: list[weakref.ref[loop.Loop]] = []
    run = loop.Loop.run

    def watch(self: loop.Loop, *rest: Any) -> None:
        loops.append(weakref.ref(self))
        run(self, *rest)

    monkeypatch.setattr(loop.Loop, "run", watch)
    gc.disable()
    try:
        synthesize(tiny, **FEW)
        assert [made() for made in loops] == [None]
    finally:
        gc.enable()


def test_a_memory_too_small_for_one_group_is_an_error(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 1)
    with (
        pytest.warns(UserWarning, match="continuing with"),
        pytest.raises(SettingError, match="set group_size to less"),
    ):
        synthesize(tiny, **FEW)


def test_statistics_of_the_whole_set_cannot_be_cut(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 1)
    with pytest.raises(SettingError, match='set statistics to "batch"'):
        synthesize(tiny, "bns", statistics="set", **{**FEW, "prompts": None})
