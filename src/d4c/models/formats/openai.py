"""Reads OpenAI's state dicts: the names of their parameters, and the architecture inferred from their shapes.

open_clip, LAION and DataComp use the same names for the default towers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import Source
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig

_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "attn.out": "attn.out_proj",
}
_WHOLE = {
    "log_logit_scale": Source("logit_scale"),
    "sigmoid_bias": Source("logit_bias"),
    "image.patch_embed.weight": Source("visual.conv1.weight"),
    "image.class_embedding": Source("visual.class_embedding"),
    "image.positional_embedding": Source("visual.positional_embedding"),
    "image.projection.weight": Source("visual.proj", transpose=True),
    "image.pool.positional_embedding": Source("visual.attnpool.positional_embedding"),
    "text.token_embedding.weight": Source("token_embedding.weight"),
    "text.positional_embedding": Source("positional_embedding"),
    "text.projection.weight": Source("text_projection", transpose=True),
}
_PARTS = {
    "image.norm_pre": "visual.ln_pre",
    "image.norm_post": "visual.ln_post",
    "text.norm_final": "ln_final",
    "image.pool.q": "visual.attnpool.q_proj",
    "image.pool.k": "visual.attnpool.k_proj",
    "image.pool.v": "visual.attnpool.v_proj",
    "image.pool.out": "visual.attnpool.c_proj",
}


def stage_of(config: ResNetConfig, block: int) -> tuple[int, int]:
    """Return the stage (1 to 4) of a block and its index within the stage."""
    for stage, depth in enumerate(config.layers, 1):
        if block < depth:
            return stage, block
        block -= depth
    raise IndexError(block)


def openai_layout(config: CLIPConfig, ours: str) -> Source:
    """Return where a state dict of OpenAI or open_clip holds one of our parameters."""
    part, _, kind = ours.rpartition(".")
    if part == "text.projection" and config.text.projection_bias:
        return Source(f"text_projection.{kind}")  # a linear layer of open_clip
    if ours in _WHOLE:
        return _WHOLE[ours]
    if part in _PARTS:
        return Source(f"{_PARTS[part]}.{kind}")
    tower, group, rest = part.split(".", 2)
    if group == "stem":
        return Source(f"visual.{rest}.{kind}")
    number, _, inner = rest.partition(".")
    if tower == "image" and isinstance(config.image, ResNetConfig):
        stage, index = stage_of(config.image, int(number))
        inner = {"downsample.conv": "downsample.0", "downsample.bn": "downsample.1"}.get(inner, inner)
        return Source(f"visual.layer{stage}.{index}.{inner}.{kind}")
    block = ("visual." if tower == "image" else "") + f"transformer.resblocks.{number}"
    if inner in ("attn.q", "attn.k", "attn.v"):
        return Source(f"{block}.attn.in_proj_{kind}", part=("qkv".index(inner[-1]), 3))
    return Source(f"{block}.{_BLOCK[inner]}.{kind}")


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return one more than the largest number that a pattern captures among the keys, or 0."""
    return max((int(match[1]) + 1 for key in state if (match := re.match(pattern, key))), default=0)


def infer_config(state: Mapping[str, Tensor], source: str, heads: tuple[int, int] | None = None) -> CLIPConfig:
    """Infer the architecture from names and shapes, as CLIP's own loader does.

    Activations are QuickGELU, as in all of OpenAI's models.

    Args:
        state: A state dict with OpenAI's names.
        source: Names it in error messages.
        heads: Attention heads of the image and the text tower; without them, heads are 64 channels wide, as in all of
            OpenAI's models.

    Returns:
        The configuration.

    Raises:
        CheckpointError: A weight that gives a size is missing or misshapen, or the image tower is wider than any of
            OpenAI's ViTs, so that its number of heads would be a guess.
    """
    shape = partial(shape_of, state, source=source)
    text_width, embed_dim = shape("text_projection", 2)
    image_heads, text_heads = heads or (None, None)
    text = TextConfig(
        width=text_width,
        layers=count(state, r"transformer\.resblocks\.(\d{1,4})\."),
        heads=text_heads or max(text_width // 64, 1),
        mlp_width=shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        context_length=shape("positional_embedding", 2)[0],
        vocab_size=shape("token_embedding.weight", 2)[0],
    )
    is_resnet = "visual.layer1.0.conv1.weight" in state
    infer_image = infer_resnet if is_resnet else infer_vit
    return CLIPConfig(embed_dim, infer_image(state, source, image_heads), text)


def infer_resnet(state: Mapping[str, Tensor], source: str, heads: int | None) -> ResNetConfig:
    """Infer the architecture of a ResNet; `heads` are those of its attention pool."""
    width = shape_of(state, "visual.layer1.0.conv1.weight", 4, source)[0]
    positions = shape_of(state, "visual.attnpool.positional_embedding", 2, source)[0]
    first, second, third, fourth = (count(state, rf"visual\.layer{stage}\.(\d{{1,4}})\.") for stage in (1, 2, 3, 4))
    return ResNetConfig(grid_side(positions) * 32, width, (first, second, third, fourth), heads or max(width // 2, 1))


def infer_vit(state: Mapping[str, Tensor], source: str, heads: int | None) -> ViTConfig:
    """Infer the architecture of a vision transformer."""
    width, _, _, patch_size = shape_of(state, "visual.conv1.weight", 4, source)
    if heads is None and width > 1024:
        raise CheckpointError(
            f"{source} has an image tower of width {width}, whose number of heads cannot be inferred from the weights; "
            "pass the folder that holds its open_clip_config.json or config.json, or name them with heads (--heads)."
        )
    return ViTConfig(
        image_size=grid_side(shape_of(state, "visual.positional_embedding", 2, source)[0]) * patch_size,
        patch_size=patch_size,
        width=width,
        layers=count(state, r"visual\.transformer\.resblocks\.(\d{1,4})\."),
        heads=heads or max(width // 64, 1),
        mlp_width=shape_of(state, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2, source)[0],
    )


def shape_of(state: Mapping[str, Tensor], key: str, dimensions: int, source: str) -> tuple[int, ...]:
    """Return the shape of a weight; raises CheckpointError if it is missing, empty or has other dimensions."""
    if key not in state:
        raise CheckpointError(
            f"{source} lacks the weight '{key}', expected the state dict of a CLIP; "
            "use a complete checkpoint, or a folder with a configuration."
        )
    shape = tuple(state[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(
            f"{source}: weight '{key}' has shape {list(shape)}, expected {dimensions} dimensions "
            "that are not empty; use a complete checkpoint."
        )
    return shape


def grid_side(positions: int) -> int:
    """Return the side of a square grid of patches from the length of its position table, which has one more row."""
    return round((positions - 1) ** 0.5)


def fill_token_table(state: dict[str, Tensor], source: str, vocab_size: int) -> dict[str, Tensor]:
    """Expand a token table that holds only the rows in `token_embedding.token_ids`; the other rows become zero.

    The embedded demo models are stored in this form, since they were trained on 4,026 of 49,408 tokens.

    Args:
        state: A state dict with OpenAI's names; without such ids, it is returned as it is.
        source: Names it in error messages.
        vocab_size: Number of rows of the full table.

    Returns:
        The state dict with the full table and without the ids.

    Raises:
        CheckpointError: The ids do not fit the rows.
    """
    ids = state.get("token_embedding.token_ids")
    rows = state.get("token_embedding.weight")
    if ids is None or rows is None:
        return state
    fits = ids.ndim == 1 and rows.ndim == 2 and len(ids) == len(rows) and not ids.is_floating_point()
    if not fits or (len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size):
        raise CheckpointError(
            f"{source}: 'token_embedding.token_ids' does not hold one id below {vocab_size} for each row of "
            "'token_embedding.weight'; use an undamaged checkpoint."
        )
    # The blocks of any text tower hold far more than the square of its width.
    held = sum(tensor.numel() for tensor in state.values())
    if not len(ids) or rows.shape[1] ** 2 > held:
        raise CheckpointError(
            f"{source}: 'token_embedding.weight' has shape {list(rows.shape)}, expected a row or more and the width "
            "of the text tower; use an undamaged checkpoint."
        )
    table = torch.zeros(vocab_size, rows.shape[1], dtype=rows.dtype)
    table[ids.long()] = rows
    rest = {key: value for key, value in state.items() if key != "token_embedding.token_ids"}
    return rest | {"token_embedding.weight": table}
