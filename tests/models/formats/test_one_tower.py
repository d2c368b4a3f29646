"""One tower alone, as Hugging Face saves it, gives what `transformers` gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import d4c
from d4c.errors import CheckpointError, SettingError

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8, "projection_dim": 24}
TEXT = {**SIZES, "max_position_embeddings": 12, "projection_dim": 24}
PROMPTS = ["a photo of a cat.", "two dogs"]

Save = Callable[..., tuple[Any, Path]]


@pytest.fixture
def saved(tmp_path: Path) -> Save:
    """Saves a model of `transformers` with random weights; the second argument is its configuration."""

    def save(model: str, configuration: str, **settings: Any) -> tuple[Any, Path]:
        theirs = getattr(transformers, model)(getattr(transformers, configuration)(**settings)).eval()
        for name, parameter in theirs.named_parameters():
            parameter.data = torch.randn_like(parameter) * (0.5 if parameter.ndim > 1 else 0.1) + ("norm" in name)
        theirs.requires_grad_(False).save_pretrained(tmp_path / "model")
        return theirs, tmp_path / "model"

    return save


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-4


@pytest.mark.parametrize(
    ("model", "configuration", "settings", "output"),
    [
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig", IMAGE, "image_embeds"),
        ("CLIPVisionModel", "CLIPVisionConfig", IMAGE, "pooler_output"),
        ("SiglipVisionModel", "SiglipVisionConfig", IMAGE, "pooler_output"),
    ],
)
def test_image_towers_give_what_transformers_gives(
    saved: Save, model: str, configuration: str, settings: dict[str, Any], output: str
) -> None:
    theirs, folder = saved(model, configuration, **settings)
    clip = d4c.load(folder)
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs(pixels, output_hidden_states=True)
    ours = clip.image.outputs(pixels)
    assert clip.towers == ("image",)
    assert_close(clip.encode_image(pixels), expected[output])
    assert_close(ours["embedding"], expected[output])
    assert_close(ours["penultimate"], expected.hidden_states[-2])
    assert_close(ours["last"], expected.last_hidden_state)


@pytest.mark.parametrize(("model", "output"), [("CLIPTextModelWithProjection", "text_embeds"), ("CLIPTextModel", None)])
def test_text_towers_give_what_transformers_gives(saved: Save, model: str, output: str | None) -> None:
    theirs, folder = saved(model, "CLIPTextConfig", **TEXT)
    clip = d4c.load(folder)
    tokens = clip.tokenize(PROMPTS)
    expected = theirs(tokens, output_hidden_states=True)
    ours = clip.text.outputs(tokens)
    assert clip.towers == ("text",)
    assert_close(clip.encode_text(tokens), expected[output or "pooler_output"])
    assert_close(ours["penultimate"], expected.hidden_states[-2])
    assert_close(ours["last"], expected.last_hidden_state)


def test_a_siglip_text_tower_gives_what_transformers_gives(saved: Save, siglip_tokenizer_json: str) -> None:
    sizes = {**SIZES, "max_position_embeddings": 12, "vocab_size": 60, "projection_size": 32}
    theirs, folder = saved("SiglipTextModel", "SiglipTextConfig", **sizes)
    (folder / "tokenizer.json").write_text(siglip_tokenizer_json)
    (folder / "tokenizer_config.json").write_text('{"pad_token": "</s>"}')
    clip = d4c.load(folder)
    tokens = clip.tokenize(PROMPTS)
    assert_close(clip.encode_text(tokens), theirs(tokens).pooler_output)


@pytest.mark.parametrize("alone", [False, True])
def test_metaclip_2_reads_prompts_with_its_own_vocabulary(saved: Save, siglip_tokenizer_json: str, alone: bool) -> None:
    text = {**TEXT, "vocab_size": 60, "eos_token_id": 1}
    whole = {"text_config": text, "vision_config": IMAGE, "projection_dim": 24}
    theirs, folder = (
        saved("MetaClip2TextModelWithProjection", "MetaClip2TextConfig", **text)
        if alone
        else saved("MetaClip2Model", "MetaClip2Config", **whole)
    )
    (folder / "tokenizer.json").write_text(siglip_tokenizer_json)
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<unk>"}')
    clip = d4c.load(folder)
    tokens, pixels = clip.tokenize(["a cat", "the dog"]), torch.randn(2, 3, 32, 32)
    if alone:
        assert_close(clip.encode_text(tokens), theirs(tokens).text_embeds)
        return
    expected = theirs(tokens, pixels)
    assert_close(F.normalize(clip.encode_text(tokens), dim=-1), expected.text_embeds)
    assert_close(F.normalize(clip.encode_image(pixels), dim=-1), expected.image_embeds)


@pytest.mark.parametrize("model", ["CLIPVisionModelWithProjection", "CLIPVisionModel"])
def test_a_file_without_configuration_is_read_by_its_shapes(saved: Save, tmp_path: Path, model: str) -> None:
    theirs, folder = saved(model, "CLIPVisionConfig", **IMAGE)
    alone = tmp_path / "alone.safetensors"
    save_file({**load_file(folder / "model.safetensors"), "logit_scale": torch.tensor(4.6)}, alone)
    pixels = torch.randn(2, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"numbers of heads; .* QuickGELU, 1 heads \(image\)"):
        d4c.load(alone)
    clip = d4c.load(alone, heads=(4, 4), activation="quick_gelu")
    assert_close(clip.encode_image(pixels), theirs(pixels)[0 if model.endswith("Projection") else 1])


@pytest.mark.parametrize(
    ("pad", "filled"),
    [(None, 49407), ('{"pad_token": "!"}', 0), ('{"pad_token": {"content": "<|endoftext|>"}}', 49407)],
)
def test_rows_are_filled_as_the_tokenizer_beside_the_tower_says(saved: Save, pad: str | None, filled: int) -> None:
    _, folder = saved("CLIPTextModel", "CLIPTextConfig", **TEXT)
    encoder = folder.rename(folder.with_name("text_encoder_2"))
    if pad is not None:
        (encoder.with_name("tokenizer_2")).mkdir()
        (encoder.with_name("tokenizer_2") / "tokenizer_config.json").write_text(pad)
    assert d4c.load(encoder).tokenize("a cat")[0, -1] == filled


def test_a_tower_is_saved_and_loaded(saved: Save, tmp_path: Path) -> None:
    _, folder = saved("CLIPTextModelWithProjection", "CLIPTextConfig", **TEXT)
    clip = d4c.load(folder)
    clip.save_pretrained(tmp_path / "native")
    again = d4c.load(tmp_path / "native")
    assert again.config == clip.config
    assert torch.equal(again.encode_text(again.tokenize(PROMPTS)), clip.encode_text(clip.tokenize(PROMPTS)))


def test_what_takes_the_other_tower_is_refused(saved: Save) -> None:
    clip = d4c.load(saved("CLIPVisionModel", "CLIPVisionConfig", **IMAGE)[1])
    with pytest.raises(SettingError, match="A prompt takes the text tower, and 'model' is the image tower alone"):
        clip.tokenize("a cat")
    with pytest.raises(SettingError, match="A logit takes both towers"):
        _ = clip.logit_scale


def test_a_whole_model_without_one_tower_is_refused(tmp_path: Path) -> None:
    whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=IMAGE))
    whole.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {key: value for key, value in state.items() if not key.startswith("text_")}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"lacks the weight 'text_model"):
        d4c.load(tmp_path)
