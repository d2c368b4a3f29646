"""Reads open_clip's configurations, its variants of OpenAI's names, and its catalog of pretrained models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d4c.errors import CheckpointError, reason_of
from d4c.models.config import OPENAI_MEAN, OPENAI_STD, Activation, CLIPConfig, ResNetConfig, TextConfig, ViTConfig
from d4c.models.formats.huggingface import triple
from d4c.reading.ranges import PIXEL_MEAN, PIXEL_STD
from d4c.reading.schema import shown

# Settings that are read or change no output.
_KNOWN_IMAGE = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"}
_KNOWN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "eos_id", "pad_id"}
_KNOWN_MODEL = {
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
}
# Values of further settings that the towers support.
_SUPPORTED = {"pool_type": ("tok", "argmax", "eos"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
_LARGEST = 1 << 20
"""Of any number in a configuration; `CLIPConfig.check` has narrower ranges."""
_IRRELEVANT = ("timm_", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "output_tokens", "attn_pooler_")
_FOREIGN = {
    "visual.trunk.": "a model with an image tower from timm (ConvNeXt, SigLIP, EVA and others)",
    "text_decoder.": "a CoCa",
    "text.transformer.embeddings.": "a model with a text tower from Hugging Face",
    "text.transformer.encoder.": "a model with a text tower from Hugging Face",
    "vision_model.head.": "a SigLIP",
}


def refuse_foreign(state: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError for the state dict of a kind of model that is known and not supported."""
    for prefix, model in _FOREIGN.items():
        if any(key.startswith(prefix) for key in state):
            raise CheckpointError(
                f"{source} is {model}, which is not supported; use a CLIP with OpenAI's ResNet or ViT towers."
            )


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to OpenAI's names: without open_clip's `text.`."""
    plain = {key.removeprefix("text."): value for key, value in state.items()}
    scale = plain.get("logit_scale")
    if scale is not None and scale.shape == (1,):
        plain["logit_scale"] = scale.reshape(())
    return plain


def refuse_unknown(part: Mapping[str, Any], known: set[str], source: str) -> None:
    """Raise CheckpointError for a setting that the towers do not support."""
    if part.get("timm_model_name"):
        raise CheckpointError(
            f"{source} has an image tower from timm ({shown(part['timm_model_name'])}), which is not supported; "
            "use a CLIP with OpenAI's ResNet or ViT towers."
        )
    for key, value in part.items():
        supported = key in known or not value or value in _SUPPORTED.get(key, ())
        if not supported and not key.startswith(_IRRELEVANT):
            raise CheckpointError(
                f"{source} has {shown(key)[1:-1]} = {shown(value)}, which is not supported; "
                "use a CLIP with OpenAI's ResNet or ViT towers."
            )


def positive_number(part: Mapping[str, Any], key: str, default: float, source: str) -> float:
    """Return a setting; raises CheckpointError if it is not a positive number, or two equal ones."""
    value = part.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    # Zero and NaN fail the comparison as well.
    if type(value) not in (int, float) or not 0 < value <= _LARGEST:
        raise CheckpointError(
            f"{source}: {key} is {shown(value)}, expected a positive number up to {_LARGEST}; "
            "correct the configuration."
        )
    return value


def positive_whole(part: Mapping[str, Any], key: str, default: int, source: str) -> int:
    """Return a setting; raises CheckpointError if it is not a positive whole number, or two equal ones."""
    value = positive_number(part, key, default, source)
    if value != int(value):
        raise CheckpointError(f"{source}: {key} is {value}, expected a whole number; correct the configuration.")
    return int(value)


def openclip_config(
    model: Mapping[str, Any], pixels: Mapping[str, Any], source: str, quick_gelu: bool = False
) -> CLIPConfig:
    """Translate an open_clip configuration; absent fields get open_clip's defaults.

    Args:
        model: The `model_cfg`.
        pixels: The `preprocess_cfg`; empty if there is none.
        source: Names the model in error messages.
        quick_gelu: Whether activations are QuickGELU even if `model` does not say so.

    Returns:
        The configuration of the same architecture.

    Raises:
        CheckpointError: A setting is not supported, as those of timm and Hugging Face towers, CoCa, SigLIP and other
            kinds of pooling.
    """
    image, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(image, dict) or not isinstance(text, dict):
        raise CheckpointError(f"{source} has no 'vision_cfg' and 'text_cfg'; use a folder that open_clip saved.")
    refuse_unknown(image, _KNOWN_IMAGE, source)
    refuse_unknown(text, _KNOWN_TEXT, source)
    refuse_unknown(model, _KNOWN_MODEL, source)
    for key, expected in (("resize_mode", "shortest"), ("interpolation", "bicubic")):
        if (value := pixels.get(key, expected)) != expected:
            raise CheckpointError(
                f"{source} has {shown(key)[1:-1]} = {shown(value)}, expected {expected!r}; use another CLIP."
            )
    size = image.get("image_size", 224)
    if pixels.get("size") not in (None, size, [size, size], (size, size)):
        raise CheckpointError(
            f"{source} has size = {shown(pixels['size'])} for pictures, expected the {shown(size)} of its image tower; "
            "correct the configuration."
        )
    activation: Activation = "quick_gelu" if quick_gelu or model.get("quick_gelu") else "gelu"
    return CLIPConfig(
        embed_dim=positive_whole(model, "embed_dim", 0, source),
        image=image_config(image, activation, source),
        text=text_config(text, activation, source),
        mean=triple(pixels.get("mean"), PIXEL_MEAN, OPENAI_MEAN, source),
        std=triple(pixels.get("std"), PIXEL_STD, OPENAI_STD, source),
    )


def image_config(image: Mapping[str, Any], activation: Activation, source: str) -> ViTConfig | ResNetConfig:
    """Translate a `vision_cfg`, which is that of a ResNet if it lists the depths of four stages."""
    size = positive_whole(image, "image_size", 224, source)
    width = positive_whole(image, "width", 768, source)
    head_width = positive_whole(image, "head_width", 64, source)
    depths = image.get("layers", 12)
    if isinstance(depths, list):
        if len(depths) != 4:
            raise CheckpointError(
                f"{source}: layers is {shown(depths)}, expected four depths; correct the configuration."
            )
        return ResNetConfig(size, width, (depths[0], depths[1], depths[2], depths[3]), width * 32 // head_width)
    return ViTConfig(
        image_size=size,
        patch_size=positive_whole(image, "patch_size", 16, source),
        width=width,
        layers=depths,
        heads=width // head_width,
        mlp_width=int(width * positive_number(image, "mlp_ratio", 4.0, source)),
        activation=activation,
    )


def text_config(text: Mapping[str, Any], activation: Activation, source: str) -> TextConfig:
    """Translate a `text_cfg`."""
    width = positive_whole(text, "width", 512, source)
    return TextConfig(
        width=width,
        layers=positive_whole(text, "layers", 12, source),
        heads=positive_whole(text, "heads", 8, source),
        mlp_width=int(width * positive_number(text, "mlp_ratio", 4.0, source)),
        activation=activation,
        context_length=positive_whole(text, "context_length", 77, source),
        vocab_size=positive_whole(text, "vocab_size", 49408, source),
        eos_id=positive_whole(text, "eos_id", 2, source) if text.get("pool_type") == "eos" else None,
    )


def named_pretrained(name: str, pretrained: str | None) -> tuple[CLIPConfig, Path]:
    """Find a model in open_clip's catalog and download its weights if they are not local.

    Args:
        name: Name of an architecture such as "ViT-B-32".
        pretrained: A tag such as "openai" or a local weights file.

    Returns:
        The configuration and the weights file.

    Raises:
        CheckpointError: open_clip cannot be imported, does not have the model or the weights, or cannot download them.
    """
    try:
        import open_clip
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "open_clip"
        cause = "is not installed" if missing else f"fails to import ({type(error).__name__}: {reason_of(error)})"
        advice = "install d4c[open-clip]" if missing else "repair that installation"
        raise CheckpointError(
            f"{name!r} is not an existing file or folder, and as an open_clip name it needs open_clip, which {cause}; "
            f"{advice}, or use an 'hf-hub:org/name' id."
        ) from error
    model = open_clip.get_model_config(name)
    if model is None:
        raise CheckpointError(
            f"{name!r} is neither an existing file or folder nor a model of open_clip; check the path, or use "
            "'demo-vit', 'demo-rn', an open_clip name such as 'ViT-B-32' or an 'hf-hub:org/name' id."
        )
    local = pretrained is not None and Path(pretrained).is_file()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None or not (local or pretrained in tags):
        choices = f"one of {', '.join(tags)}, or a file" if tags else "a file"
        raise CheckpointError(f"{name!r} has no weights for pretrained={pretrained!r}; use {choices}.")
    pixels = {} if local else open_clip.get_pretrained_cfg(name, pretrained)
    config = openclip_config(model, pixels, name, bool(pixels.get("quick_gelu")))
    if local:
        return config, Path(str(pretrained))
    try:
        return config, Path(open_clip.download_pretrained(pixels))
    except Exception as error:
        raise CheckpointError(
            f"The weights {pretrained!r} of {name!r} cannot be downloaded ({reason_of(error)}); "
            "check the connection, or pass a local file as pretrained."
        ) from None
