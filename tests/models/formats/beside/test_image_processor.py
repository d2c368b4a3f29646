"""Hugging Face's preprocessing gives the same pixels, or is refused by the name of the setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d4c.errors import CheckpointError
from d4c.models.formats.load import load

Write = Callable[..., Path]
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]


def values(**settings: Any) -> dict[str, Any]:
    return {"image_mean": MEAN, "image_std": STD, **settings}


def as_documented(picture: Image.Image, settings: dict[str, Any]) -> torch.Tensor:
    """The steps after resizing, in the words of `CLIPImageProcessor`."""
    pixels = np.asarray(picture, np.float64).transpose(2, 0, 1)
    if settings.get("do_rescale", True):
        pixels = pixels * settings.get("rescale_factor", 1 / 255)
    if settings.get("do_normalize", True):
        pixels = (pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    return torch.from_numpy(pixels).float()


HONORED: dict[str, dict[str, Any]] = {
    "statistics": values(),
    "not normalized": values(do_normalize=False),
    "factor": values(rescale_factor=1 / 127.5),
    "not rescaled": values(do_rescale=False),
    "neither": values(do_rescale=False, do_normalize=False),
    "all said": values(
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        resample=3,
        do_resize=True,
        do_center_crop=True,
        do_convert_rgb=True,
        image_processor_type="CLIPImageProcessor",
    ),
    "squash": values(size={"height": 16, "width": 16}, do_center_crop=False),
    "SigLIP's": values(image_processor_type="SiglipImageProcessor"),
    "old form": values(size=16, crop_size=16, feature_extractor_type="CLIPFeatureExtractor"),
}


@pytest.mark.parametrize("case", HONORED)
@pytest.mark.parametrize("new", [False, True], ids=["preprocessor_config", "processor_config"])
def test_settings_are_honored(case: str, new: bool, huggingface_folder: Write) -> None:
    settings = HONORED[case]
    files: dict[str, Any] = {"preprocessor_config": settings}
    if new:  # has precedence, as in transformers 5
        files = {"preprocessor_config": {"image_mean": [9, 9, 9]}, "processor_config": {"image_processor": settings}}
    clip = load(huggingface_folder(**files))
    picture = Image.effect_noise((16, 16), 90).convert("RGB")
    torch.testing.assert_close(clip.preprocess(picture), as_documented(picture, settings), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize("squash", [False, True], ids=["crop", "squash"])
def test_pictures_are_resized_as_the_settings_say(squash: bool, resample: int, huggingface_folder: Write) -> None:
    size = {"height": 16, "width": 16} if squash else {"shortest_edge": 16}
    clip = load(huggingface_folder(preprocessor_config=values(size=size, resample=resample)))
    picture = Image.effect_noise((48, 32), 90).convert("RGB")
    whole = picture.resize((16 if squash else 24, 16), Image.Resampling(resample))
    expected = as_documented(whole if squash else whole.crop((4, 0, 20, 16)), {})
    torch.testing.assert_close(clip.preprocess(picture), expected)


def test_a_processor_config_without_images_leaves_the_old_file(huggingface_folder: Write) -> None:
    files = {"processor_config": {"processor_class": "CLIPProcessor"}, "preprocessor_config": values()}
    assert load(huggingface_folder(**files)).config.mean == tuple(MEAN)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other squash": ({"size": {"height": 16, "width": 18}}, r"size = {'height': 16, 'width': 18}, expected"),
    "larger resize": ({"size": {"shortest_edge": 18}}, r"size = {'shortest_edge': 18}, expected"),
    "other crop": ({"crop_size": 14}, r"crop_size = 14, expected 16"),
    "no crop": ({"do_center_crop": False}, "do_center_crop = False, expected true"),
    "no resize": ({"do_resize": False}, "do_resize = False, expected true"),
    "lanczos": ({"resample": 1}, r"resample = 1, expected 3 \(bicubic\) or 2"),
    "other processor": ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type = 'ViT"),
    "other step": ({"do_flip_channel_order": True}, "do_flip_channel_order = True, a step"),
    "factor of zero": ({"rescale_factor": 0}, "rescale_factor = 0, expected a positive number"),
    "words": ({"rescale_factor": 1, "image_mean": "gray"}, "'gray', expected three numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_preprocessing_is_refused_by_name(case: str, huggingface_folder: Write) -> None:
    settings, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=rf"\(processor_config.json\).*{message}") as caught:
        load(huggingface_folder(processor_config={"image_processor": settings}))
    assert str(caught.value).endswith(".")


def test_open_clips_other_preprocessing_is_refused_by_name() -> None:
    from d4c.models.formats.openclip import openclip_config

    for key, value in (("resize_mode", "longest"), ("interpolation", "random"), ("size", 17)):
        with pytest.raises(CheckpointError, match=f"{key} = "):
            openclip_config({"embed_dim": 4, "vision_cfg": {"image_size": 16}, "text_cfg": {}}, {key: value}, "x")
