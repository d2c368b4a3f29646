"""Small SigLIPs of other libraries with random weights, and folders that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def their_siglip() -> Any:
    """A `SiglipModel` with weights that keep its activations away from zero; tests must not change it."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
    config = transformers.SiglipConfig(
        text_config={"hidden_size": 32, "vocab_size": 60, "max_position_embeddings": 24, **sizes},
        vision_config={"hidden_size": 32, "image_size": 32, "patch_size": 8, **sizes},
    )
    theirs = transformers.SiglipModel(config).eval().requires_grad_(False)
    torch.manual_seed(4)
    for parameter in theirs.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    return theirs


@pytest.fixture
def siglip_folder(tmp_path: Path, their_siglip: Any, siglip_tokenizer_json: str) -> Path:
    """The folder of a `SiglipModel` with its processor."""
    their_siglip.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(siglip_tokenizer_json)
    tokenizer = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path


def timm_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `SiglipModel` under open_clip's and timm's names."""
    renamed: dict[str, Tensor] = {}
    trunk, head, text = "visual.trunk", "vision_model.head", "text_model"
    rules = {
        "vision_model.embeddings.patch_embedding": f"{trunk}.patch_embed.proj",
        "vision_model.post_layernorm": f"{trunk}.norm",
        f"{head}.layernorm": f"{trunk}.attn_pool.norm",
        f"{head}.mlp": f"{trunk}.attn_pool.mlp",
        f"{head}.attention.out_proj": f"{trunk}.attn_pool.proj",
        f"{text}.embeddings.token_embedding": "text.token_embedding",
        f"{text}.final_layer_norm": "text.ln_final",
        f"{text}.head": "text.text_projection",
    }
    for key, value in theirs.items():
        for old, new in rules.items():
            if key.startswith(f"{old}."):
                renamed[key.replace(old, new)] = value
    for tower, old, new in (("image", "vision_model", f"{trunk}.blocks"), ("text", text, "text.transformer.resblocks")):
        inner = (
            {
                "norm1": "norm1",
                "norm2": "norm2",
                "fc1": "mlp.fc1",
                "fc2": "mlp.fc2",
                "out": "attn.proj",
                "qkv": "attn.qkv.",
            }
            if tower == "image"
            else {
                "norm1": "ln_1",
                "norm2": "ln_2",
                "fc1": "mlp.c_fc",
                "fc2": "mlp.c_proj",
                "out": "attn.out_proj",
                "qkv": "attn.in_proj_",
            }
        )
        for i in range(2):
            layer = f"{old}.encoder.layers.{i}"
            pairs = {
                "norm1": "layer_norm1",
                "norm2": "layer_norm2",
                "fc1": "mlp.fc1",
                "fc2": "mlp.fc2",
                "out": "self_attn.out_proj",
            }
            for kind in ("weight", "bias"):
                for ours, his in pairs.items():
                    renamed[f"{new}.{i}.{inner[ours]}.{kind}"] = theirs[f"{layer}.{his}.{kind}"]
                joint = [theirs[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                renamed[f"{new}.{i}.{inner['qkv']}{kind}"] = torch.cat(joint)
    for kind in ("weight", "bias"):
        q, k, v = theirs[f"{head}.attention.in_proj_{kind}"].chunk(3)
        renamed[f"{trunk}.attn_pool.q.{kind}"] = q
        renamed[f"{trunk}.attn_pool.kv.{kind}"] = torch.cat([k, v])
    renamed[f"{trunk}.attn_pool.latent"] = theirs[f"{head}.probe"]
    renamed[f"{trunk}.pos_embed"] = theirs["vision_model.embeddings.position_embedding.weight"][None]
    renamed["text.positional_embedding"] = theirs[f"{text}.embeddings.position_embedding.weight"]
    renamed["logit_scale"], renamed["logit_bias"] = theirs["logit_scale"][0], theirs["logit_bias"][0]
    return renamed


@pytest.fixture(scope="session")
def timm_state(their_siglip: Any) -> dict[str, Tensor]:
    """The same weights under open_clip's and timm's names; tests must not change them."""
    return timm_names(their_siglip.state_dict())
