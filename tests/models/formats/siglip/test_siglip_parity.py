"""SigLIPs of transformers and of open_clip give the same embeddings, probabilities, ids and pixels in d4c."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import d4c
from d4c.models.clip import CLIP
from d4c.models.formats.assemble import IGNORED, blueprint
from d4c.models.formats.beside.image_processor import Pixels
from d4c.models.formats.build import layout_of
from d4c.models.formats.openclip import openclip_config
from d4c.models.formats.siglip.siglip_configs import siglip_config
from d4c.models.formats.siglip.siglip_names import siglip_layout

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")

PROMPTS = ["A photo of a cat!", "two  Dogs", ""]
PUBLISHED = [
    name
    for name in open_clip.list_models()
    if "SigLIP" in name and not name.startswith("nllb") and "naflex" not in name.lower()
]


def each_size(names: list[str]) -> list[Any]:
    """The first name of each size; those that differ in image size or vocabulary alone are slow."""
    sizes: dict[str, str] = {}
    for name in names:
        sizes.setdefault(re.sub(r"(-i18n)?(-\d+)?$", "", name), name)
    return [pytest.param(name, marks=[] if name in sizes.values() else pytest.mark.slow) for name in names]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_same(clip: CLIP, theirs: Any) -> None:
    pixels, tokens = torch.randn(3, 3, 32, 32), clip.tokenize(PROMPTS)
    expected = theirs(input_ids=tokens, pixel_values=pixels)
    image, text = (torch.nn.functional.normalize(x) for x in (clip.encode_image(pixels), clip.encode_text(tokens)))
    assert relative_error(image, expected.image_embeds) <= 1e-4
    assert relative_error(text, expected.text_embeds) <= 1e-4
    assert clip.logit_bias is not None
    torch.testing.assert_close(clip.logit_scale * image @ text.T + clip.logit_bias, expected.logits_per_image)


def test_a_folder_of_transformers(siglip_folder: Path, their_siglip: Any) -> None:
    clip = d4c.load(siglip_folder)
    assert_same(clip, their_siglip)
    saved = siglip_folder / "ours"
    clip.save_pretrained(saved)
    again = d4c.load(saved)
    pixels, tokens = torch.randn(1, 3, 32, 32), clip.tokenize(PROMPTS)
    assert torch.equal(again.encode_image(pixels), clip.encode_image(pixels))
    assert torch.equal(again.encode_text(again.tokenize(PROMPTS)), clip.encode_text(tokens))


def test_a_weights_file_of_open_clip(
    siglip_folder: Path, their_siglip: Any, timm_state: dict[str, Tensor], tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (siglip_folder / name).unlink()
    save_file({key: value.clone() for key, value in timm_state.items()}, tmp_path / "mine.safetensors")
    clip = d4c.load(tmp_path / "mine.safetensors", activation="gelu_tanh", heads=(4, 4))
    assert_same(clip, their_siglip)
    assert (clip.config.resize, clip.config.mean) == ("squash", (0.5, 0.5, 0.5))


def test_embeddings_are_open_clips(timm_state: dict[str, Tensor], siglip_folder: Path) -> None:
    """With timm's own tower of other sizes, which no configuration of open_clip has."""
    from timm.models.vision_transformer import VisionTransformer

    tower = (
        VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=4,
            mlp_ratio=2.5,
            class_token=False,
            global_pool="map",
            num_classes=0,
            act_layer="gelu_tanh",
        )
        .eval()
        .requires_grad_(False)
    )
    tower.load_state_dict({k.removeprefix("visual.trunk."): v for k, v in timm_state.items() if "visual" in k})
    pixels = torch.randn(2, 3, 32, 32)
    assert relative_error(d4c.load(siglip_folder).encode_image(pixels), tower(pixels)) <= 1e-4


@pytest.mark.parametrize("name", each_size(PUBLISHED))
def test_every_parameter_of_open_clips_siglips_is_read(name: str) -> None:
    with torch.device("meta"):
        theirs = open_clip.create_model(name, load_weights=False, device="meta").state_dict()
    theirs = {key.removeprefix("text."): value for key, value in theirs.items()}
    config = openclip_config(open_clip.get_model_config(name), open_clip.get_pretrained_cfg(name, "webli"), name)
    layout = layout_of(config, theirs)
    needed = {key: shape for ours, own in blueprint(config).items() for key, shape in layout(ours).shapes(own).items()}
    assert needed == {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith(IGNORED)}
    assert (config.resize, config.mean) == ("squash", (0.5, 0.5, 0.5))


SIZES = {"B/16": (768, 12, 12, 3072), "L/16": (1024, 24, 16, 4096), "SO400M": (1152, 27, 16, 4304)}


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_of_transformers_siglips_is_read(size: str) -> None:
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    tower = dict(zip(keys, SIZES[size], strict=True))
    config = transformers.SiglipConfig(text_config=tower, vision_config={"patch_size": 14, "image_size": 384, **tower})
    with torch.device("meta"):
        theirs = transformers.SiglipModel(config).state_dict()
    ours = siglip_config(config.to_dict(), Pixels(), size)
    needed = {
        key: shape
        for name, own in blueprint(ours).items()
        for key, shape in siglip_layout(ours, name).shapes(own).items()
    }
    assert needed == {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith(IGNORED)}


def test_ids_are_those_of_transformers_for_canonical_text(siglip_folder: Path) -> None:
    clip = d4c.load(siglip_folder)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(siglip_folder / "tokenizer.json"), pad_token="</s>", eos_token="</s>"
    )
    expected = theirs(["a photo of a cat", "two dogs", ""], padding="max_length", max_length=24, truncation=True)
    assert clip.tokenize(PROMPTS).tolist() == expected["input_ids"]


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
def test_pixels_are_squashed_as_transformers_does(siglip_folder: Path, resample: int) -> None:
    file = siglip_folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "resample": resample}))
    picture = Image.effect_noise((70, 45), 90).convert("RGB")
    squashed = picture.resize((32, 32), Image.Resampling(resample))
    expected = torch.frombuffer(bytearray(squashed.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
    torch.testing.assert_close(d4c.load(siglip_folder).preprocess(picture), expected / 255 * 2 - 1)


def test_labels_have_probabilities_of_their_own(siglip_folder: Path) -> None:
    clip = d4c.load(siglip_folder)
    picture = Image.new("RGB", (9, 9), "red")
    both = clip.classify([picture], ["cat", "dog"])
    assert both[:, :1] == pytest.approx(clip.classify([picture], ["cat"]))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no head": ({"vision_config": {"vision_use_head": False}}, "vision_use_head is false, expected true"),
    "widths": (
        {"text_config": {"hidden_size": 16, "projection_size": 16}},
        "image width 32 is not that of the embedding",
    ),
    "vocabulary": ({"text_config": {"vocab_size": 9}}, "beyond the token table of 9 rows"),
    "NaFlex": ({"model_type": "siglip2"}, "type 'siglip2', expected 'clip', 'metaclip_2' or 'siglip'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_tower_does_is_refused_by_name(case: str, siglip_folder: Path) -> None:
    changes, message = REFUSED[case]
    config = json.loads((siglip_folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (siglip_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(d4c.CheckpointError, match=message) as caught:
        d4c.load(siglip_folder)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer_config.json", "{}", "does not say which token fills rows"),
    ],
)
def test_a_missing_or_damaged_tokenizer_is_refused(
    file: str, content: str | None, message: str, siglip_folder: Path
) -> None:
    if content is None:
        (siglip_folder / file).unlink()
    else:
        (siglip_folder / file).write_text(content)
    with pytest.raises(d4c.CheckpointError, match=message):
        d4c.load(siglip_folder)


def test_rows_must_be_padded_and_ids_in_the_table(siglip_folder: Path) -> None:
    clip = d4c.load(siglip_folder)
    tokens = clip.tokenize(PROMPTS)
    with pytest.raises(d4c.DataError, match=r"shape \[3, 23\], expected \[N, 24\]"):
        clip.encode_text(tokens[:, :23])
    with pytest.raises(d4c.DataError, match="range from 1 to 60, expected ids from 0 to 59"):
        clip.encode_text(tokens.clone().index_fill(1, torch.tensor([0]), 60))


def test_a_long_prompt_is_cut_with_a_warning_and_keeps_its_end(siglip_folder: Path) -> None:
    clip = d4c.load(siglip_folder)
    with pytest.warns(UserWarning, match="longer than 23 tokens and is cut"):
        row = clip.tokenize("a photo of a cat " * 9)[0]
    assert row[-1] == clip.tokenize("")[0, 0]
