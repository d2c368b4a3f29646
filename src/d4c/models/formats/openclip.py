"""open_clip: its configurations, its variants of OpenAI's names, and its catalog of pretrained models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import OPENAI_MEAN, OPENAI_STD, CLIPConfig, ResNetConfig, TextConfig, ViTConfig
from d4c.models.formats.huggingface import triple
from d4c.models.layers import Activation

_KNOWN_IMAGE = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"}
_KNOWN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "eos_id", "pad_id"}
_KNOWN_MODEL = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "nonscalar_logit_scale",
}
_PLAIN = {"pool_type": ("tok", "argmax", "eos"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
_IRRELEVANT = ("timm_", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "output_tokens", "attn_pooler_")
_FOREIGN = {
    "visual.trunk.": "an image tower from timm (ConvNeXt, SigLIP, EVA and others)",
    "text_decoder.": "a CoCa",
    "text.transformer.embeddings.": "a text tower from Hugging Face",
    "text.transformer.encoder.": "a text tower from Hugging Face",
    "vision_model.head.": "a SigLIP",
    "logit_bias": "a SigLIP",
}


def refuse_foreign(state: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError for state dicts of the kinds of model that are known and not supported."""
    for prefix, what in _FOREIGN.items():
        if any(key.startswith(prefix) for key in state):
            raise CheckpointError(
                f"{source} is {what}, which is not supported; use a CLIP with OpenAI's ResNet or ViT towers."
            )


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names: without the `module.` of parallel training and the `text.` of open_clip's custom text towers."""
    out = {key.removeprefix("module.").removeprefix("text."): value for key, value in state.items()}
    scale = out.get("logit_scale")
    if scale is not None and scale.shape == (1,):
        out["logit_scale"] = scale.reshape(())
    return out


def refuse_unknown(part: Mapping[str, Any], known: set[str], source: str) -> None:
    """Raise CheckpointError for a setting that changes the towers in a way that ours do not have."""
    if part.get("timm_model_name"):
        raise CheckpointError(
            f"{source} has an image tower from timm ({part['timm_model_name']!r}), which is not supported; "
            "use a CLIP with OpenAI's ResNet or ViT towers."
        )
    for key, value in part.items():
        plain = key in known or not value or value in _PLAIN.get(key, ())
        if not plain and not key.startswith(_IRRELEVANT):
            raise CheckpointError(
                f"{source} has {key} = {value!r}, which is not supported; "
                "use a CLIP with OpenAI's ResNet or ViT towers."
            )


def number(part: Mapping[str, Any], key: str, default: float, source: str) -> float:
    value = part.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise CheckpointError(f"{source}: {key} is {value!r}, expected a positive number; correct the configuration.")
    return value


def openclip_config(
    model: Mapping[str, Any], pixels: Mapping[str, Any], source: str, quick_gelu: bool = False
) -> CLIPConfig:
    """Our configuration from open_clip's `model_cfg` and `preprocess_cfg` (empty if absent).

    Activations are QuickGELU if `model_cfg` or the caller says so, else GELU. Raises CheckpointError for every
    setting that the towers do not have: timm and Hugging Face towers, CoCa, SigLIP, other pooling.
    """
    image, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(image, dict) or not isinstance(text, dict):
        raise CheckpointError(f"{source} has no 'vision_cfg' and 'text_cfg'; use a folder that open_clip saved.")
    refuse_unknown(image, _KNOWN_IMAGE, source)
    refuse_unknown(text, _KNOWN_TEXT, source)
    refuse_unknown(model, _KNOWN_MODEL, source)
    for key, expected in (("resize_mode", "shortest"), ("interpolation", "bicubic")):
        if (given := pixels.get(key, expected)) != expected:
            raise CheckpointError(f"{source} has {key} = {given!r}, expected {expected!r}; use another CLIP.")
    act: Activation = "quick_gelu" if quick_gelu or model.get("quick_gelu") else "gelu"
    size = int(number(image, "image_size", 224, source))
    width = int(number(image, "width", 768, source))
    head_width = int(number(image, "head_width", 64, source))
    tower: ViTConfig | ResNetConfig
    depths = image.get("layers", 12)
    if isinstance(depths, list):
        if len(depths) != 4:
            raise CheckpointError(f"{source}: layers is {depths!r}, expected four depths; correct the configuration.")
        tower = ResNetConfig(size, width, (depths[0], depths[1], depths[2], depths[3]), width * 32 // head_width)
    else:
        tower = ViTConfig(
            image_size=size,
            patch_size=int(number(image, "patch_size", 16, source)),
            width=width,
            layers=depths,
            heads=width // head_width,
            mlp_width=int(width * number(image, "mlp_ratio", 4.0, source)),
            activation=act,
        )
    text_width = int(number(text, "width", 512, source))
    return CLIPConfig(
        embed_dim=int(number(model, "embed_dim", 0, source)),
        image=tower,
        text=TextConfig(
            width=text_width,
            layers=int(number(text, "layers", 12, source)),
            heads=int(number(text, "heads", 8, source)),
            mlp_width=int(text_width * number(text, "mlp_ratio", 4.0, source)),
            activation=act,
            context_length=int(number(text, "context_length", 77, source)),
            vocab_size=int(number(text, "vocab_size", 49408, source)),
            eos_id=int(number(text, "eos_id", 2, source)) if text.get("pool_type") == "eos" else None,
        ),
        mean=triple(pixels.get("mean"), OPENAI_MEAN, source),
        std=triple(pixels.get("std"), OPENAI_STD, source),
    )


def named_pretrained(name: str, pretrained: str | None) -> tuple[CLIPConfig, Path]:
    """Configuration and weights file of a model in open_clip's catalog, downloaded if need be.

    `pretrained` is a tag such as "openai" or a local weights file. Raises CheckpointError if open_clip cannot be
    imported or does not know the pair.
    """
    try:
        import open_clip
    except Exception as error:
        raise CheckpointError(
            f"{name!r} is no file or folder here, and as an open_clip name it needs open_clip, which cannot be "
            f"imported ({type(error).__name__}); install d4c[open-clip] or use an 'hf-hub:org/name' id."
        ) from None
    model = open_clip.get_model_config(name)
    if model is None:
        raise CheckpointError(
            f"{name!r} is no file, no folder and no model that open_clip knows; check the path, or use "
            "'demo-vit', 'demo-rn', an open_clip name such as 'ViT-B-32' or an 'hf-hub:org/name' id."
        )
    local = pretrained is not None and Path(pretrained).is_file()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None or not (local or pretrained in tags):
        raise CheckpointError(
            f"{name!r} has no weights for pretrained={pretrained!r}; use one of {', '.join(tags) or 'none'}, or a file."
        )
    pixels = {} if local else open_clip.get_pretrained_cfg(name, pretrained)
    config = openclip_config(model, pixels, name, bool(pixels.get("quick_gelu")))
    if local:
        return config, Path(str(pretrained))
    try:
        return config, Path(open_clip.download_pretrained(pixels))
    except Exception as error:
        raise CheckpointError(
            f"the weights {pretrained!r} of {name!r} cannot be downloaded ({' '.join(str(error).split())[:200]}); "
            "check the connection, or pass a local file as pretrained."
        ) from None
