"""Describes a model and its preprocessing in the words of open_clip, which several tools read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from d4c.models.formats.siglip.siglip_configs import is_siglip
from d4c.models.tower_config import ResNetConfig, ViTConfig

if TYPE_CHECKING:
    from d4c.models.clip import CLIP


def model_config(clip: CLIP) -> dict[str, Any]:
    """Return what open_clip keeps in model_configs/NAME.json."""
    image, text = clip.config.image, clip.config.text
    vision: dict[str, Any] = {"image_size": image.image_size}
    quick = text.activation == "quick_gelu"
    more: dict[str, Any] = {}
    if is_siglip(clip.config):
        # The name of timm's tower, which only published sizes have, is left out.
        vision |= {"timm_pool": "map", "timm_proj": "none"}
        more = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    elif isinstance(image, ViTConfig):
        vision |= {
            "layers": image.layers,
            "width": image.width,
            "head_width": image.width // image.heads,
            "mlp_ratio": image.mlp_width / image.width,
            "patch_size": image.patch_size,
        }
    elif isinstance(image, ResNetConfig):
        vision |= {"layers": list(image.layers), "width": image.width, "patch_size": None}
    return {
        "embed_dim": clip.config.embed_dim,
        "quick_gelu": quick,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": text.mlp_width / text.width,
            **more,
        },
    }


def preprocess_config(clip: CLIP) -> dict[str, Any]:
    """Return what open_clip keeps as preprocess_cfg."""
    return {
        "size": [clip.image_size, clip.image_size],
        "mode": "RGB",
        "mean": list(clip.config.mean),
        "std": list(clip.config.std),
        "interpolation": clip.config.interpolation,
        "resize_mode": "squash" if clip.config.resize == "squash" else "shortest",
        "fill_color": 0,
    }
