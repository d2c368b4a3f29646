"""Writes config.json as transformers knows it, which several tools read."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4c.models.formats.huggingface import name_of
from d4c.models.formats.siglip.siglip_configs import is_siglip
from d4c.models.inputs.reader_files import FILES as READER_FILES
from d4c.models.inputs.tokenizer import END, START, VOCAB_SIZE
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.storage.files import write_json

if TYPE_CHECKING:
    from d4c.models.clip import CLIP


def save_processor(readers: Path, folder: Path, clip: CLIP, **more: Any) -> None:
    """Write what `AutoConfig` and `AutoProcessor` read.

    Args:
        readers: Folder with the files that say how prompts and pictures are read.
        folder: Where to write config.json and copies of these.
        clip: The model.
        **more: Further fields of config.json.
    """
    for name in READER_FILES:
        shutil.copyfile(readers / name, folder / name)
    fields = siglip_config(clip) if is_siglip(clip.config) else clip_config(clip)
    write_json(folder / "config.json", {**fields, **more})


def save_special_tokens(folder: Path) -> None:
    """Write special_tokens_map.json, which says again what tokenizer_config.json does."""
    write_json(folder / "special_tokens_map.json", {"bos_token": START, **dict.fromkeys(_ENDS, END)})


_ENDS = ("eos_token", "unk_token", "pad_token")


def clip_config(clip: CLIP) -> dict[str, Any]:
    """Return the fields of a `CLIPConfig`; of a ResNet, which transformers does not have, only what is the same."""
    width, text, image = clip.config.embed_dim, clip.config.text, clip.config.image
    vision: dict[str, Any] = {"image_size": image.image_size}
    if isinstance(image, ViTConfig):
        vision |= {
            "patch_size": image.patch_size,
            "hidden_size": image.width,
            "intermediate_size": image.mlp_width,
            "num_hidden_layers": image.layers,
            "num_attention_heads": image.heads,
            "hidden_act": name_of(image.activation),
        }
    begin, end = VOCAB_SIZE - 2, VOCAB_SIZE - 1
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": width,
        "logit_scale_init_value": math.log(clip.logit_scale),
        "vision_config": {"model_type": "clip_vision_model", **vision, "projection_dim": width},
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "hidden_act": name_of(text.activation),
            "bos_token_id": begin,
            "eos_token_id": end,
            "pad_token_id": end,
            "projection_dim": width,
        },
    }


def siglip_config(clip: CLIP) -> dict[str, Any]:
    """Return the fields of a `SiglipConfig`."""
    text, image = clip.config.text, clip.config.image
    assert isinstance(image, ViTConfig)

    def tower(config: ViTConfig | TextConfig, kind: str) -> dict[str, Any]:
        return {
            "model_type": kind,
            "hidden_size": config.width,
            "intermediate_size": config.mlp_width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "hidden_act": name_of(config.activation),
            "layer_norm_eps": config.norm_eps,
        }

    return {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "vision_config": {
            **tower(image, "siglip_vision_model"),
            "image_size": image.image_size,
            "patch_size": image.patch_size,
        },
        "text_config": {
            **tower(text, "siglip_text_model"),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_size": clip.config.embed_dim,
        },
    }
