"""With the same random weights, our towers give the embeddings of open_clip's and Hugging Face's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.models.formats.assemble import IGNORED, blueprint
from d4c.models.formats.build import from_state
from d4c.models.formats.openai import infer_config, openai_layout
from d4c.models.formats.openclip import openclip_config
from d4c.models.layers import AttentionProducts

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

PROMPTS = ["a photo of a cat.", "two dogs & one bird, drawn with a pencil on a very old sheet of paper"]
OPENAI = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"]
LAION = ["ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-B-16-plus-240", "ViT-B-32-256", "ViT-L-14-280", "ViT-H-14-378"]
FOREIGN = ["convnext_base", "coca_ViT-B-32", "roberta-ViT-B-32", "EVA02-B-16", "MobileCLIP-S1"]


def randomize(model: Any) -> Any:
    """Allocate a model on the meta device with values that keep its activations away from zero and infinity."""
    generator = torch.Generator().manual_seed(1)
    model.to_empty(device="cpu")
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            bound = (3 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 and "embedding" not in name else 0.3
            tensor.uniform_(-bound, bound, generator=generator)
    return model.eval().requires_grad_(False)


def skeleton(name: str) -> Any:
    """Return open_clip's model on the meta device."""
    with torch.device("meta"):
        return open_clip.create_model(name, load_weights=False, device="meta")


def reference(name: str) -> Any:
    model = randomize(skeleton(name))
    length = model.context_length
    model.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    return model


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_same_embeddings(clip: CLIP, image: Tensor, tokens: Tensor, theirs: tuple[Tensor, Tensor]) -> None:
    assert relative_error(clip.encode_image(image), theirs[0]) <= 1e-4
    assert relative_error(clip.encode_text(tokens), theirs[1]) <= 1e-4


@pytest.mark.parametrize(
    "name",
    ["RN50", "ViT-B-32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("RN50x4", "ViT-B-16", "ViT-L-14"))],
)
def test_embeddings_are_open_clips(name: str) -> None:
    theirs = reference(name)
    config = openclip_config(open_clip.get_model_config(name), {}, name)
    clip = from_state(theirs.state_dict(), config, name, name)
    image = torch.randn(1, 3, clip.image_size, clip.image_size)
    tokens = clip.tokenize(PROMPTS)
    assert_same_embeddings(clip, image, tokens, (theirs.encode_image(image), theirs.encode_text(tokens)))


@pytest.mark.parametrize("name", OPENAI + LAION)
def test_the_layout_covers_every_parameter_of_an_architecture(name: str) -> None:
    theirs = skeleton(name).state_dict()
    config = openclip_config(open_clip.get_model_config(name), {}, name)
    sources = {openai_layout(config, ours): shape for ours, shape in blueprint(config).items()}
    shapes = {source.key: source.shape(shape) for source, shape in sources.items()}
    assert shapes == {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith(IGNORED)}


@pytest.mark.parametrize("name", OPENAI)
def test_the_configuration_of_openais_models_is_inferred_from_their_shapes(name: str) -> None:
    state = skeleton(name).state_dict()
    assert infer_config(state, name) == openclip_config(open_clip.get_model_config(name), {}, name, quick_gelu=True)


@pytest.mark.parametrize("name", FOREIGN)
def test_other_kinds_of_towers_are_refused(name: str) -> None:
    with pytest.raises(d4c.CheckpointError, match=r"not supported"):
        openclip_config(open_clip.get_model_config(name), open_clip.get_pretrained_cfg(name, "x"), name)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [2, 49407])
@pytest.mark.parametrize("form", ["safetensors", "shards", "bin"])
def test_embeddings_are_hugging_faces(act: str, eos: int, form: str, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": act}
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "intermediate_size": 48, "eos_token_id": eos, **sizes},
        vision_config={"hidden_size": 64, "intermediate_size": 80, "image_size": 32, "patch_size": 8, **sizes},
        projection_dim=24,
    )
    theirs = transformers.CLIPModel(config).eval().requires_grad_(False)
    for parameter in theirs.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    if form == "bin":
        config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        theirs.save_pretrained(tmp_path, max_shard_size="100KB" if form == "shards" else "5GB")
    assert (form == "shards") == bool(list(tmp_path.glob("*.index.json")))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.25, 0.125]}))
    clip = d4c.load(tmp_path)
    assert clip.config.mean == (0.5, 0.25, 0.125)
    image, tokens = torch.randn(2, 3, 32, 32), clip.tokenize(PROMPTS)
    expected = (
        theirs.get_image_features(pixel_values=image, return_dict=True),
        theirs.get_text_features(input_ids=tokens, return_dict=True),
    )
    assert_same_embeddings(clip, image, tokens, tuple(getattr(e, "pooler_output", e) for e in expected))
    assert clip.logit_scale == pytest.approx(float(theirs.logit_scale.exp()))


def test_unfused_attention_gives_the_same_embeddings(demo: CLIP) -> None:
    image, tokens = torch.randn(2, 3, demo.image_size, demo.image_size), demo.tokenize(PROMPTS)
    expected = (demo.encode_image(image), demo.encode_text(tokens))
    written_out = copy.deepcopy(demo)
    attentions = [module for module in written_out.modules() if isinstance(module, AttentionProducts)]
    for module in attentions:
        module.scores = PlainProduct()
    assert attentions
    assert_same_embeddings(written_out, image, tokens, expected)


class PlainProduct(nn.Module):
    """A product that no fused kernel replaces."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


def test_trimming_changes_no_embedding(demo: CLIP) -> None:
    tokens = demo.tokenize(PROMPTS)
    expected = demo.encode_text(tokens)
    demo.text.trim = False
    try:
        assert relative_error(demo.encode_text(tokens), expected) <= 1e-5
    finally:
        demo.text.trim = True
