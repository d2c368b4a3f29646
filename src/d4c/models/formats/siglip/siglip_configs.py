"""Reads the architecture of a SigLIP: from transformers' configuration, timm's name, or the shapes of the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.formats.beside.image_processor import HALF, Pixels
from d4c.models.formats.huggingface import activation_of, norm_eps, section
from d4c.models.formats.openai import count, shape_of
from d4c.models.tower_config import Activation, TextConfig, ViTConfig, unlike_openai
from d4c.reading.schema import shown

EPS = 1e-6
_NAME = re.compile(r"vit_(?P<size>[a-z0-9]+)_patch(?P<patch>\d+)_siglip_(?P<average>gap_)?(?P<image>\d+)")
_SIZES = {  # width, layers, heads, width of the MLP
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_TANH = ("patch32_siglip_256", "large_patch16_siglip_512", "so400m_patch16", "giantopt")
"""What the names of timm's towers hold whose GELU is the approximation by tanh."""
HEADS = {1152: 16, 1536: 16}
"""Heads by width where they are not 64 channels wide."""


def siglip_config(config: Mapping[str, Any], pixels: Pixels, source: str) -> CLIPConfig:
    """Translate the config.json of a `transformers.SiglipModel`; absent fields get the defaults of B/16.

    Args:
        config: The content of config.json.
        pixels: How pictures are prepared.
        source: Names the model in error messages.

    Raises:
        CheckpointError: It has settings that the towers do not support.
    """
    image, text = section(config, "vision", source), section(config, "text", source)
    if image.get("vision_use_head", True) is not True:
        raise CheckpointError(
            f"{source}: vision_use_head is {shown(image['vision_use_head'])}, expected true; use one with its head."
        )
    width = text.get("hidden_size", 768)
    return CLIPConfig(
        embed_dim=text.get("projection_size") or width,
        image=ViTConfig(
            image_size=image.get("image_size", 224),
            patch_size=image.get("patch_size", 16),
            width=image.get("hidden_size", 768),
            layers=image.get("num_hidden_layers", 12),
            heads=image.get("num_attention_heads", 12),
            mlp_width=image.get("intermediate_size", 3072),
            activation=activation_of(image, source, "gelu_pytorch_tanh"),
            norm_eps=norm_eps(image, source, EPS),
            **LATENT,
        ),
        text=TextConfig(
            width=width,
            layers=text.get("num_hidden_layers", 12),
            heads=text.get("num_attention_heads", 12),
            mlp_width=text.get("intermediate_size", 3072),
            activation=activation_of(text, source, "gelu_pytorch_tanh"),
            context_length=text.get("max_position_embeddings", 64),
            vocab_size=text.get("vocab_size", 32000),
            norm_eps=norm_eps(text, source, EPS),
            **LAST,
        ),
        sigmoid=True,
        **pixels.fields(),
    )


LATENT: dict[str, Any] = {
    "class_token": False,
    "patch_bias": True,
    "norm_pre": False,
    "pooling": "attention",
    "norm_first": True,
    "projection": False,
}
"""What SigLIP's image towers have and CLIP's have not."""
LAST: dict[str, Any] = {"causal": False, "pooling": "last", "projection_bias": True, "tokenizer": "own"}
"""What SigLIP's text towers have and CLIP's have not."""


def is_siglip(config: CLIPConfig) -> bool:
    """Whether both towers are of the kind that every tool for SigLIPs knows."""
    return config.sigmoid and unlike_openai(config.image) == LATENT and unlike_openai(config.text) == LAST


def timm_image_config(image: Mapping[str, Any], source: str) -> ViTConfig:
    """Translate a `vision_cfg` of open_clip that names a tower of timm.

    Args:
        image: The `vision_cfg`.
        source: Names the model in error messages.

    Raises:
        CheckpointError: The tower is not one of SigLIP's.
    """
    name = image.get("timm_model_name")
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or match["size"] not in _SIZES:
        raise CheckpointError(
            f"{source} has an image tower from timm ({shown(name)}), which is not supported; "
            "use a CLIP with OpenAI's ResNet or ViT towers, or a SigLIP."
        )
    average, size = match["average"] is not None, int(match["image"])
    expected = {"timm_pool": "avg" if average else "map", "timm_proj": "none", "image_size": size}
    for key, value in expected.items():
        # With an empty pool open_clip leaves timm's own.
        if image.get(key, value) not in (value, "", None):
            raise CheckpointError(
                f"{source} has {key} = {shown(image[key])}, expected {value!r}, as towers called {name} have; "
                "use another SigLIP."
            )
    width, layers, heads, mlp_width = _SIZES[match["size"]]
    tanh = any(part in match[0] for part in _TANH)
    kind = {**LATENT, "pooling": "average"} if average else LATENT
    return ViTConfig(
        image_size=size,
        patch_size=int(match["patch"]),
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        activation="gelu_tanh" if tanh else "gelu",
        norm_eps=EPS,
        **kind,
    )


def infer_siglip(state: Mapping[str, Tensor], source: str, heads: tuple[int, int] | None = None) -> CLIPConfig:
    """Infer the architecture from the names and shapes of an open_clip model with a SigLIP tower of timm.

    Activations are GELU by tanh, as in the training code.

    Args:
        state: A state dict without `text.` before the names of the text tower.
        source: Names it in error messages.
        heads: Attention heads of the image and the text tower; without them, as in the published sizes.

    Raises:
        CheckpointError: A weight that gives a size is missing or misshapen.
    """

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        return shape_of(state, key, dimensions, source)

    act: Activation = "gelu_tanh"
    width, _, patch, _ = shape("visual.trunk.patch_embed.proj.weight", 4)
    text_width = shape("ln_final.weight", 1)[0]
    image_heads, text_heads = heads or (
        HEADS.get(width, max(width // 64, 1)),
        HEADS.get(text_width, max(text_width // 64, 1)),
    )
    image = ViTConfig(
        image_size=round(shape("visual.trunk.pos_embed", 3)[1] ** 0.5) * patch,
        patch_size=patch,
        width=width,
        layers=count(state, r"visual\.trunk\.blocks\.(\d{1,4})\."),
        heads=image_heads,
        mlp_width=shape("visual.trunk.blocks.0.mlp.fc1.weight", 2)[0],
        activation=act,
        norm_eps=EPS,
        **LATENT,
    )
    text = TextConfig(
        width=text_width,
        layers=count(state, r"transformer\.resblocks\.(\d{1,4})\."),
        heads=text_heads,
        mlp_width=shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        activation=act,
        context_length=shape("positional_embedding", 2)[0],
        vocab_size=shape("token_embedding.weight", 2)[0],
        norm_eps=EPS,
        **LAST,
    )
    embed_dim = shape("text_projection.weight", 2)[0]
    return CLIPConfig(embed_dim, image, text, HALF, HALF, "squash", sigmoid=True)
