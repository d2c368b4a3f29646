"""A CLIP loads from every kind of source, and each refuses in one sentence what is not a CLIP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import d4c
from d4c.errors import CheckpointError, SettingError
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import demo_models, demo_path, load
from d4c.models.formats.openai import fill_token_table
from d4c.models.tower_config import ViTConfig

State = dict[str, Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:.*assumed, as in")
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 256,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 256, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 3},
}


@pytest.fixture(scope="module")
def state() -> State:
    """The weights of demo-vit as open_clip would save them."""
    return fill_token_table(load_file(demo_path("demo-vit")), "demo-vit", 49408)


def open_clip_folder(folder: Path, state: State, **changes: object) -> Path:
    """Write a folder as open_clip saves it, with changes in its `model_cfg`."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG | changes, "preprocess_cfg": {}}))
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def changed(state: State, **changes: Tensor | None) -> State:
    """Return a state dict with some weights replaced, or dropped where None."""
    keys = {key.replace(".", "__"): key for key in state}
    merged = dict(state) | {keys.get(name, name.replace("__", ".")): value for name, value in changes.items()}
    return {key: value for key, value in merged.items() if value is not None}


def test_demo_models_are_loaded_for_inference(demo: CLIP) -> None:
    assert not demo.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in demo.parameters())
    assert demo.name in demo_models() == ["demo-rn", "demo-vit"]
    assert 0 < demo.logit_scale < 101


def test_one_model_has_one_hash_however_it_comes(state: State, demo_vit: CLIP, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "train.pt")
    save_file(state, tmp_path / "plain.safetensors")
    custom = {k if k.startswith(("visual", "logit")) else f"text.{k}": v for k, v in state.items()}
    custom["logit_scale"] = custom["logit_scale"].reshape(1)
    (tmp_path / "folder").mkdir()
    folder = open_clip_folder(tmp_path / "folder", custom)
    sources: list[Any] = [state, tmp_path / "train.pt", str(tmp_path / "plain.safetensors"), folder]
    sources += [folder / "open_clip_model.safetensors", demo_path("demo-vit")]
    assert {model_hash(load(source)) for source in sources} == {model_hash(demo_vit)}


def test_models_with_different_weights_have_different_hashes(state: State, demo_vit: CLIP, demo_rn: CLIP) -> None:
    scale = state["logit_scale"]
    hashes = [model_hash(m) for m in (demo_vit, demo_rn, load(changed(state, logit_scale=scale * 1.001)))]
    assert len(set(hashes)) == 3


def test_loading_does_not_share_memory_with_the_state_dict(state: State) -> None:
    wide = {key: value.float() for key, value in state.items()}
    clip = load(wide)
    expected = model_hash(clip)
    for value in wide.values():
        value.zero_()
    assert model_hash(clip) == expected


def test_gelu_is_open_clips_default(state: State, demo_vit: CLIP, tmp_path: Path) -> None:
    clip = load(open_clip_folder(tmp_path, state, quick_gelu=False))
    image, original = clip.config.image, demo_vit.config.image
    assert isinstance(image, ViTConfig)
    assert isinstance(original, ViTConfig)
    assert image.activation == clip.config.text.activation == "gelu"
    assert original.activation == "quick_gelu"


def test_buffers_that_carry_nothing_are_ignored(state: State, demo_vit: CLIP) -> None:
    extra = {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    assert model_hash(load(state | extra | {"attn_mask": torch.zeros(77, 77)})) == model_hash(demo_vit)


BAD_STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (lambda s: changed(s, visual__ln_post__bias=None), "lacks the weight 'visual.ln_post.bias'"),
    "missing block": (
        lambda s: {k: v for k, v in s.items() if ".3.mlp" not in k},
        r"lacks the weight 'visual.transformer.resblocks.3.mlp.c_fc.bias' and 3 more",
    ),
    "no text tower": (lambda s: changed(s, text_projection=None), "lacks the weight 'text_projection'"),
    "extra": (lambda s: s | {"visual.ln_mid.bias": torch.zeros(3)}, "holds the weight 'visual.ln_mid.bias'"),
    "wrong shape": (
        lambda s: changed(s, ln_final__bias=torch.zeros(7)),
        r"'ln_final.bias' has shape \[7\], expected \[192\]",
    ),
    "no square grid": (
        lambda s: changed(s, visual__positional_embedding=torch.zeros(60, 256)),
        r"shape \[60, 256\], expected \[65, 256\]",
    ),
    "not finite": (lambda s: changed(s, ln_final__bias=torch.full((192,), float("nan"))), "not finite everywhere"),
    "whole numbers": (
        lambda s: changed(s, ln_final__bias=torch.zeros(192, dtype=torch.int8)),
        "torch.int8, expected floating point",
    ),
    "too wide to guess": (
        lambda s: changed(s, visual__conv1__weight=torch.zeros(1280, 3, 8, 8)),
        "number of heads cannot be inferred from the weights",
    ),
    "bad ids": (
        lambda s: changed(s, token_embedding__token_ids=torch.tensor([1, 2])),
        "does not hold one id below 49408 for each row",
    ),
    "timm": (lambda s: s | {"visual.trunk.stem.weight": torch.zeros(3)}, "image tower from timm"),
    "CoCa": (lambda s: s | {"text_decoder.ln.weight": torch.zeros(3)}, "is a CoCa, which is not supported"),
    "Hugging Face's names": (
        lambda s: dict.fromkeys(("text_model.x", "vision_model.x"), torch.zeros(1)),
        "pass the folder that holds both",
    ),
    "empty": (lambda s: {}, "lacks the weight 'text_projection'"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_dict_is_refused_in_one_sentence(case: str, state: State) -> None:
    damage, message = BAD_STATES[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        load(damage(state))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "timm": ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "image tower from timm .'convnext_base'"),
    "Hugging Face text": ({"text_cfg": {"hf_model_name": "roberta-base"}}, "hf_model_name = 'roberta-base'"),
    "CoCa": ({"multimodal_cfg": {"width": 8}}, "multimodal_cfg"),
    "pooling": ({"vision_cfg": {**MODEL_CFG["vision_cfg"], "pool_type": "none"}}, "pool_type = 'none'"),
    "pooled text": ({"text_cfg": {"pool_type": "first"}}, "pool_type = 'first'"),
    "norms": ({"text_cfg": {"norm_kwargs": {"bias": False}}}, "norm_kwargs = a table of 1 entries"),
    "a large eps": ({"text_cfg": {"norm_kwargs": {"eps": 1}}}, "norm_kwargs: eps is 1"),
    "no text": ({"text_cfg": None}, "no 'vision_cfg' and 'text_cfg'"),
    "a thousand layers": ({"text_cfg": {"width": 192, "layers": 1000, "heads": 3}}, "text.layers is 1000"),
    "odd heads": ({"text_cfg": {"width": 192, "layers": 3, "heads": 5}}, "not a multiple of its 5 heads"),
    "negative": ({"embed_dim": -1}, "embed_dim is -1, expected a positive number"),
    "other width": ({"embed_dim": 128}, "expected .256, 128."),
    "huge": ({"embed_dim": 10**5}, "expected .256, 100000."),
    "too huge": ({"embed_dim": 10**6}, "embed_dim is 1000000, expected a whole number"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_open_clip_configuration_is_refused(case: str, state: State, tmp_path: Path) -> None:
    changes, message = BAD_CONFIGS[case]
    with pytest.raises(CheckpointError, match=message):
        load(open_clip_folder(tmp_path, state, **changes))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, "model of type 'siglip2', expected 'clip'"),
        ({"model_type": "clip", "quantization_config": {}}, "use d4c.load_quantized"),
        ({"model_type": "clip", "text_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
        ({"model_type": "clip", "text_config": {"layer_norm_eps": 1}}, "layer_norm_eps is 1, expected"),
        ({"model_type": "clip", "vision_config": {"hidden_size": "wide"}}, "image.width is 'wide'"),
        ({"model_type": "clip", "vision_config": [1]}, "'vision_config' is not a JSON object"),
        ({"model_type": "clip"}, "lacks the weight 'logit_scale' and"),
        ([], "holds a JSON list, expected an object"),
    ],
)
def test_a_bad_hugging_face_configuration_is_refused(config: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_a_shard_outside_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="expected one in the same folder"):
        load(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 300, 100_000])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    file.write_bytes(demo_path("demo-rn").read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"neither safetensors|damaged or truncated"):
        load(file)


@pytest.mark.parametrize("source", ["no/such/file", "missing.safetensors", Path("nowhere"), "no-such-model"])
def test_a_missing_path_is_refused(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r"is (not|neither) an existing file or folder"):
        load(source)


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.pt"])
def test_what_is_neither_a_file_nor_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match="is neither a file nor a folder, expected a checkpoint"):
        load(str(tmp_path / name))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="The name of the model is empty"):
        load("")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder without a CLIP"):
        load(tmp_path)


def test_a_missing_device_is_refused() -> None:
    with pytest.raises(SettingError, match="The device 'cuda:99' cannot be used"):
        d4c.load("demo-rn", device="cuda:99")


def test_an_open_clip_name_takes_weights_from_a_file(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = pytest.importorskip("open_clip")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: MODEL_CFG)
    save_file(state, tmp_path / "weights.safetensors")
    assert model_hash(load("tiny", str(tmp_path / "weights.safetensors"))) == model_hash(load(state))
    with pytest.raises(CheckpointError, match="no weights for pretrained='nobody'"):
        load("tiny", "nobody")


def test_an_open_clip_tag_is_downloaded_with_its_preprocessing(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = pytest.importorskip("open_clip")
    save_file(state, tmp_path / "weights.safetensors")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: MODEL_CFG | {"quick_gelu": False})
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["openai"])
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(tmp_path / "weights.safetensors"))
    clip = load("ViT-B-32", "openai")
    assert model_hash(clip) == model_hash(load(state))
    assert clip.config == load(state).config


def test_an_open_clip_name_without_open_clip_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(CheckpointError, match=r"install d4c\[open-clip\], or use an 'hf-hub:org/name' id"):
        load("ViT-B-32", "openai")


@pytest.mark.parametrize("layout", ["open_clip", "shards", "bin"])
def test_hub_ids_fetch_one_set_of_weights(
    layout: str, state: State, demo_vit: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fnmatch
    import shutil

    remote, local = tmp_path / "remote", tmp_path / "local"
    remote.mkdir()
    local.mkdir()
    open_clip_folder(remote, state)
    (remote / "huge.ckpt").write_text("not wanted")
    weights = remote / "open_clip_model.safetensors"
    if layout == "bin":
        torch.save(state, remote / "open_clip_pytorch_model.bin")
        weights.unlink()
    if layout == "shards":
        transformers = pytest.importorskip("transformers")
        for file in remote.glob("open_clip*"):
            file.unlink()
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPConfig(text_config=sizes, vision_config=sizes)
        transformers.CLIPModel(config).save_pretrained(remote, max_shard_size="1MB")

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo, revision) == ("org/name", "v2")
        for file in remote.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local)
        return str(local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    clip = load("hf-hub:org/name@v2")
    assert clip.name == "name"
    assert not (local / "huge.ckpt").exists()
    if layout != "shards":
        assert model_hash(clip) == model_hash(demo_vit)


def test_a_path_with_pretrained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a path, which does not go with pretrained; leave pretrained out"):
        load(tmp_path, "openai")


def test_a_hub_that_cannot_be_reached_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"'hf-hub:org/name' cannot be downloaded \(no route to host\)"):
        load("hf-hub:org/name")


def test_the_demo_models_tell_pictures_apart(demo: CLIP) -> None:
    from PIL import Image

    pixels = torch.stack([demo.preprocess(Image.new("RGB", (64, 64), c)) for c in ("red", "green")])
    image = torch.nn.functional.normalize(demo.encode_image(pixels), dim=-1)
    text = demo.encode_text(demo.tokenize(["an emoji of a red square.", "an emoji of a green square."]))
    assert (image @ text.T).diff(dim=1).flatten()[0] < (image @ text.T).diff(dim=1).flatten()[1]


def test_an_embedded_model_takes_no_other_weights() -> None:
    with pytest.raises(CheckpointError, match="demo-vit names its own weights, which do not go with pretrained"):
        load("demo-vit", "openai")
