"""Positions are interpolated for pictures of another size, bit for bit as transformers does it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import d4c
from d4c.models.clip import CLIP
from d4c.models.formats.assemble import assemble
from d4c.models.formats.beside.image_processor import Pixels
from d4c.models.formats.huggingface import huggingface_config, huggingface_layout
from d4c.models.formats.siglip.siglip_configs import siglip_config
from d4c.models.resolution import interpolated, with_image_size
from d4c.models.tower_config import ViTConfig

transformers = pytest.importorskip("transformers")

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = {**TOWER, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize("size", [16, 24, 44, 64])
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_tables_are_those_of_transformers(kind: str, size: int) -> None:
    config = getattr(transformers, f"{kind}VisionConfig")(**IMAGE)
    theirs: Any = getattr(transformers, f"{kind}VisionModel")(config).eval()
    embeddings = getattr(theirs, "vision_model", theirs).embeddings
    table, first = embeddings.position_embedding.weight.detach(), int(kind == "CLIP")
    rows = torch.zeros(1, (size // 8) ** 2 + first, 16)
    expected = embeddings.interpolate_pos_encoding(rows, size, size)[0]
    assert torch.equal(interpolated(table, first, size // 8), expected)


def test_embeddings_of_larger_pictures_are_those_of_transformers() -> None:
    config = transformers.CLIPConfig(text_config=TOWER, vision_config=IMAGE, projection_dim=8)
    theirs = transformers.CLIPModel(config).eval().requires_grad_(False)
    ours = huggingface_config(config.to_dict(), Pixels(), "x")
    clip = with_image_size(assemble(ours, theirs.state_dict(), huggingface_layout, "x", "x"), 48)
    pixels = torch.randn(2, 3, 48, 48)
    expected = theirs.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
    torch.testing.assert_close(clip.encode_image(pixels), getattr(expected, "pooler_output", expected))


@pytest.mark.parametrize(("model", "size"), [("demo-vit", 96), ("demo-rn", 96)])
def test_a_model_of_another_size_reads_and_is_saved(model: str, size: int, tmp_path: Any) -> None:
    clip = d4c.load(model, image_size=size)
    clip.save_pretrained(tmp_path / "larger")
    again = d4c.load(tmp_path / "larger")
    pixels = torch.randn(1, 3, size, size)
    assert again.image_size == size
    assert torch.equal(again.encode_image(pixels), clip.encode_image(pixels))


def test_pixels_that_no_patch_sees_are_named() -> None:
    with pytest.warns(UserWarning, match="68 is not a multiple of 8: 4 pixels"):
        d4c.load("demo-vit", image_size=68)


def test_the_same_size_changes_nothing(demo_vit: CLIP) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(d4c.load("demo-vit", image_size=64).encode_image(pixels), demo_vit.encode_image(pixels))


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ("demo-rn", 65, "image size 65 is not a multiple of 32"),
        ("demo-vit", 4, "patch size 8 is larger than image size 4"),
        ("demo-vit", 0, "expected one whole number of pixels"),
        ("demo-vit", (64, 32), r"The image size is \(64, 32\), expected one whole number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(model: str, size: Any, message: str) -> None:
    with pytest.raises(d4c.SettingError, match=message):
        d4c.load(model, image_size=size)


def test_a_checkpoint_of_pictures_that_are_not_square_is_refused() -> None:
    for read in (huggingface_config, siglip_config):
        kind = "clip" if read is huggingface_config else "siglip"
        config = read({"model_type": kind, "vision_config": {"image_size": [224, 336]}}, Pixels(), "x")
        assert isinstance(config.image, ViTConfig)
        with pytest.raises(d4c.CheckpointError, match=r"image\.image_size is a list of 2 values, expected"):
            config.check("x", d4c.CheckpointError, "use another")
