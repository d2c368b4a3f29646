"""Reads open_clip's configurations and its variants of OpenAI's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import OPENAI_MEAN, OPENAI_STD, CLIPConfig
from d4c.models.formats.beside.image_processor import FILTERS, Pixels, triple
from d4c.models.formats.beside.own_tokenizer import Cleaning, TokenizerFiles
from d4c.models.formats.siglip.siglip_configs import timm_image_config
from d4c.models.tower_config import NORM_EPS, Activation, ImagePooling, ResNetConfig, TextConfig, ViTConfig
from d4c.reading.ranges import PIXEL_MEAN, PIXEL_STD, RANGES
from d4c.reading.schema import Record, check, shown

# Settings that are read or change no output.
_KNOWN = {"width", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs"}
_KNOWN_IMAGE = _KNOWN | {
    "image_size",
    "head_width",
    "patch_size",
    "patch_dropout",
    "no_ln_pre",
    "final_ln_after_pool",
    "pool_type",
}
_KNOWN_TEXT = _KNOWN | {
    "context_length",
    "vocab_size",
    "heads",
    "eos_id",
    "pad_id",
    "pool_type",
    "no_causal_mask",
    "proj_bias",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
}
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
_SUPPORTED = {"pos_embed_type": ("learnable",), "proj_type": ("linear", "none")}
_IMAGE_POOLING: dict[Any, ImagePooling] = {"tok": "token", "avg": "average"}
CLEANING: dict[Any, Cleaning] = {"canonicalize": "canonical", "lower": "lower", "whitespace": "plain"}
"""What open_clip calls the ways in which prompts are cleaned before a tokenizer of Hugging Face reads them."""
_LARGEST = 1 << 20
"""Of any number in a configuration; `CLIPConfig.check` has narrower ranges."""
_IRRELEVANT = ("timm_", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "output_tokens", "attn_pooler_")
_FOREIGN = {
    "text_decoder.": "a CoCa",
    "text.transformer.embeddings.": "a model with a text tower from Hugging Face",
    "text.transformer.encoder.": "a model with a text tower from Hugging Face",
}


def refuse_foreign(state: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError for the state dict of a kind of model that is known and not supported."""
    kinds = [model for prefix, model in _FOREIGN.items() if any(key.startswith(prefix) for key in state)]
    trunk = any(key.startswith("visual.trunk.") for key in state)
    if trunk and not any(key.startswith(("visual.trunk.attn_pool.latent", "visual.trunk.pos_embed")) for key in state):
        kinds.append("a model with an image tower from timm (ConvNeXt, EVA and others)")
    if kinds:
        raise CheckpointError(
            f"{source} is {kinds[0]}, which is not supported; use a CLIP with OpenAI's ResNet or ViT towers, or a "
            "SigLIP."
        )


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to OpenAI's names: without open_clip's `text.`."""
    plain = {key.removeprefix("text."): value for key, value in state.items()}
    for key in ("logit_scale", "logit_bias"):
        if key in plain and plain[key].shape == (1,):
            plain[key] = plain[key].reshape(())
    return plain


def refuse_unknown(part: Mapping[str, Any], known: set[str], source: str) -> None:
    """Raise CheckpointError for a setting that the towers do not support."""
    for key, value in part.items():
        supported = key in known or not value or value in _SUPPORTED.get(key, ())
        if not supported and not key.startswith(_IRRELEVANT):
            raise unsupported(shown(key)[1:-1], value, source)


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
        CheckpointError: A setting is not supported, as those of most timm and all Hugging Face towers, CoCa and other
            kinds of pooling.
    """
    image, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(image, dict) or not isinstance(text, dict):
        raise CheckpointError(f"{source} has no 'vision_cfg' and 'text_cfg'; use a folder that open_clip saved.")
    refuse_unknown(model, _KNOWN_MODEL, source)
    activation: Activation = "quick_gelu" if quick_gelu or model.get("quick_gelu") else "gelu"
    size = image.get("image_size", 224)
    return CLIPConfig(
        embed_dim=positive_whole(model, "embed_dim", 0, source),
        image=image_config(image, activation, source),
        text=text_config(text, activation, source),
        sigmoid=model.get("init_logit_bias") is not None,
        **openclip_pixels(pixels, size, source).fields(),
    )


def openclip_pixels(pixels: Mapping[str, Any], size: Any, source: str) -> Pixels:
    """Translate a `preprocess_cfg` for a tower that reads squares of a size."""
    resize, filter = pixels.get("resize_mode") or "shortest", pixels.get("interpolation") or "bicubic"
    for key, value, expected in (
        ("resize_mode", resize, ("shortest", "squash")),
        ("interpolation", filter, ("bicubic", "bilinear")),
    ):
        if value not in expected:
            raise CheckpointError(
                f"{source} has {key} = {shown(value)}, expected {' or '.join(map(repr, expected))}; use another CLIP."
            )
    if pixels.get("size") not in (None, size, [size, size], (size, size)):
        raise CheckpointError(
            f"{source} has size = {shown(pixels['size'])} for pictures, expected the {shown(size)} of its image tower; "
            "correct the configuration."
        )
    return Pixels(
        triple(pixels.get("mean"), PIXEL_MEAN, OPENAI_MEAN, source),
        triple(pixels.get("std"), PIXEL_STD, OPENAI_STD, source),
        "squash" if resize == "squash" else "crop",
        FILTERS[filter],
    )


def image_config(image: Mapping[str, Any], activation: Activation, source: str) -> ViTConfig | ResNetConfig:
    """Translate a `vision_cfg`, which is that of a ResNet if it lists the depths of four stages."""
    if image.get("timm_model_name"):
        return timm_image_config(image, source)
    refuse_unknown(image, _KNOWN_IMAGE, source)
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
    pooling = image.get("pool_type") or "tok"
    if pooling not in _IMAGE_POOLING:
        raise unsupported("pool_type", pooling, source)
    return ViTConfig(
        image_size=size,
        patch_size=positive_whole(image, "patch_size", 16, source),
        width=width,
        layers=depths,
        heads=width // head_width,
        mlp_width=int(width * positive_number(image, "mlp_ratio", 4.0, source)),
        activation=approximated(image, activation, source),
        norm_pre=not image.get("no_ln_pre"),
        pooling=_IMAGE_POOLING[pooling],
        norm_first=pooling == "avg" and not image.get("final_ln_after_pool"),
        norm_eps=openclip_eps(image, source),
    )


def text_config(text: Mapping[str, Any], activation: Activation, source: str) -> TextConfig:
    """Translate a `text_cfg`."""
    refuse_unknown(text, _KNOWN_TEXT, source)
    width = positive_whole(text, "width", 512, source)
    pooling = text.get("pool_type") or "argmax"
    if pooling not in ("argmax", "eos", "last"):
        raise unsupported("pool_type", pooling, source)
    return TextConfig(
        width=width,
        layers=positive_whole(text, "layers", 12, source),
        heads=positive_whole(text, "heads", 8, source),
        mlp_width=int(width * positive_number(text, "mlp_ratio", 4.0, source)),
        activation=approximated(text, activation, source),
        context_length=positive_whole(text, "context_length", 77, source),
        vocab_size=positive_whole(text, "vocab_size", 49408, source),
        eos_id=positive_whole(text, "eos_id", 2, source) if pooling == "eos" else None,
        causal=not text.get("no_causal_mask"),
        pooling="last" if pooling == "last" else "end",
        projection=text.get("proj_type") != "none",
        projection_bias=bool(text.get("proj_bias")),
        norm_eps=openclip_eps(text, source),
        tokenizer="own" if text.get("hf_tokenizer_name") else "clip",
    )


def approximated(part: Mapping[str, Any], activation: Activation, source: str) -> Activation:
    """Return the activation of a tower, with what its `act_kwargs` say of it."""
    settings = part.get("act_kwargs") or {}
    if settings not in ({}, {"approximate": "none"}, {"approximate": "tanh"}) or (settings and activation != "gelu"):
        raise unsupported("act_kwargs", settings, source)
    return "gelu_tanh" if settings == {"approximate": "tanh"} else activation


def openclip_eps(part: Mapping[str, Any], source: str) -> float:
    """Return what the norms of a tower add to variances, from its `norm_kwargs`."""
    settings = part.get("norm_kwargs") or {}
    if not isinstance(settings, dict) or settings.keys() - {"eps"}:
        raise unsupported("norm_kwargs", settings, source)
    kind = Record({}, {"eps": RANGES["norm_eps"]})
    check(settings, kind, f"{source}: norm_kwargs", CheckpointError, "correct the configuration")
    return float(settings.get("eps", NORM_EPS))


def openclip_tokenizer(text: Mapping[str, Any], folder: Path, source: str) -> TokenizerFiles:
    """Return the files in a folder of the tokenizer that a `text_cfg` names, with what open_clip does around it."""
    settings = text.get("tokenizer_kwargs") or {}
    clean = settings.get("clean", "whitespace") if isinstance(settings, dict) else None
    if clean not in CLEANING or settings.keys() - {"clean", "strip_sep_token"}:
        raise unsupported("tokenizer_kwargs", settings, source)
    return TokenizerFiles(folder, CLEANING[clean], bool(settings.get("strip_sep_token")))


def unsupported(key: str, value: Any, source: str) -> CheckpointError:
    """Return the error for a setting that the towers do not support."""
    return CheckpointError(
        f"{source} has {key} = {shown(value)}, which is not supported; use a CLIP with OpenAI's ResNet or ViT towers, "
        "or a SigLIP."
    )
