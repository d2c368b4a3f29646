"""A device that cannot be used is refused in one sentence, wherever a model is moved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import d4c
from d4c.device import move, resolve_device
from d4c.integer.accelerate import accelerate
from d4c.models.clip import CLIP

NO_DEVICES = ["", "meta", "meta:3", "cuda:99", "nonsense", "cpu:-1", "cpu:7", "cuda:x", "mps:9", "xla", "hpu", "\n"]


@pytest.mark.parametrize("device", NO_DEVICES)
def test_what_is_not_there_is_refused(demo_vit: CLIP, device: str) -> None:
    with pytest.raises(
        d4c.SettingError, match=rf"^The device {re.escape(repr(device))} cannot be used \(.{{1,200}}\); use 'cpu'\.$"
    ):
        move(demo_vit, device)
    assert demo_vit.device.type == "cpu"
    with pytest.raises(d4c.SettingError, match=r"cannot be used"):
        resolve_device(device)


def test_an_artifact_refuses_it_as_a_float_model_does(lone_image: CLIP, tmp_path: Path) -> None:
    quantized = d4c.quantize(lone_image, d4c.synthesize(lone_image, "leaves", images=2), reconstruction="none")
    quantized.save_pretrained(tmp_path / "artifact")
    for device in NO_DEVICES:
        with pytest.raises(d4c.SettingError, match="cannot be used"):
            d4c.load_quantized(tmp_path / "artifact", device)


def test_auto_is_a_gpu_if_there_is_one() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_may_be_on_a_gpu_that_is_not_the_current_one() -> None:
    clip = d4c.load("demo-vit", device="cuda:1")
    images = d4c.synthesize(clip, preset="quick", images=8, iterations=12)
    quantized = d4c.quantize(clip, images, reconstruction="block", iterations=12)
    pixels = images.pixels.to("cuda:1")
    fast = accelerate(quantized, torch.float32)
    assert torch.cuda.current_device() == 0
    with torch.no_grad():
        expected = clip.encode_image(pixels)
        for model in (quantized, fast):
            embeddings = model.encode_image(pixels)
            assert embeddings.device == torch.device("cuda:1")
            assert float(F.cosine_similarity(embeddings.float(), expected).mean()) > 0.9
