"""OpenAI's state dicts: their names, and the architecture read from their shapes.

open_clip, LAION and DataComp name the default towers in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig, ResNetConfig, TextConfig, ViTConfig
from d4c.models.formats.assemble import Source

_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "attn.out": "attn.out_proj",
}
_WHOLE = {
    "log_logit_scale": Source("logit_scale"),
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
    """Stage (1 to 4) and place within it of a block in our one list of blocks."""
    for stage, depth in enumerate(config.layers, 1):
        if block < depth:
            return stage, block
        block -= depth
    raise IndexError(block)


def openai_layout(config: CLIPConfig, ours: str) -> Source:
    """The place of one of our parameters in an OpenAI state dict."""
    if ours in _WHOLE:
        return _WHOLE[ours]
    part, _, kind = ours.rpartition(".")
    if part in _PARTS:
        return Source(f"{_PARTS[part]}.{kind}")
    tower, group, rest = part.split(".", 2)
    if group == "stem":
        return Source(f"visual.{rest}.{kind}")
    number, _, inner = rest.partition(".")
    if tower == "image" and isinstance(config.image, ResNetConfig):
        stage, place = stage_of(config.image, int(number))
        inner = {"downsample.conv": "downsample.0", "downsample.bn": "downsample.1"}.get(inner, inner)
        return Source(f"visual.layer{stage}.{place}.{inner}.{kind}")
    block = ("visual." if tower == "image" else "") + f"transformer.resblocks.{number}"
    if inner in ("attn.q", "attn.k", "attn.v"):
        return Source(f"{block}.attn.in_proj_{kind}", third="qkv".index(inner[-1]))
    return Source(f"{block}.{_BLOCK[inner]}.{kind}")


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that `pattern` captures among the keys, or 0."""
    return max((int(found[1]) + 1 for key in state if (found := re.match(pattern, key))), default=0)


def infer_config(state: Mapping[str, Tensor], source: str) -> CLIPConfig:
    """The architecture of an OpenAI state dict, from its names and shapes as CLIP's own loader does.

    Heads are 64 channels wide and activations QuickGELU, as in all of OpenAI's models. Raises CheckpointError if a
    weight that tells a size is absent, or if the image tower is wider than any of OpenAI's ViTs (its heads would
    be a guess).
    """

    def shape(key: str, dims: int) -> tuple[int, ...]:
        if key not in state:
            raise CheckpointError(
                f"{source} lacks the weight '{key}', so it is no state dict of a CLIP with OpenAI's names; "
                "give a folder with its configuration, or a complete checkpoint."
            )
        if state[key].ndim != dims or 0 in state[key].shape:
            raise CheckpointError(
                f"{source}: weight '{key}' has shape {list(state[key].shape)}, expected {dims} dimensions "
                "that are not empty; use a complete checkpoint."
            )
        return tuple(state[key].shape)

    text_width, embed_dim = shape("text_projection", 2)
    text = TextConfig(
        width=text_width,
        layers=count(state, r"transformer\.resblocks\.(\d{1,4})\."),
        heads=max(text_width // 64, 1),
        mlp_width=shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        context_length=shape("positional_embedding", 2)[0],
        vocab_size=shape("token_embedding.weight", 2)[0],
    )
    stem = shape("visual.conv1.weight", 4)
    image: ViTConfig | ResNetConfig
    if "visual.layer1.0.conv1.weight" in state:
        width = shape("visual.layer1.0.conv1.weight", 4)[0]
        grid = round((shape("visual.attnpool.positional_embedding", 2)[0] - 1) ** 0.5)
        layers = [count(state, rf"visual\.layer{stage}\.(\d{{1,4}})\.") for stage in (1, 2, 3, 4)]
        image = ResNetConfig(grid * 32, width, (layers[0], layers[1], layers[2], layers[3]), max(width // 2, 1))
    else:
        width, patch = stem[0], stem[3]
        if width > 1024:
            raise CheckpointError(
                f"{source}: the image tower is {width} wide and its number of heads cannot be told from the weights; "
                "give the folder that holds its open_clip_config.json or config.json."
            )
        grid = round((shape("visual.positional_embedding", 2)[0] - 1) ** 0.5)
        image = ViTConfig(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            layers=count(state, r"visual\.transformer\.resblocks\.(\d{1,4})\."),
            heads=max(width // 64, 1),
            mlp_width=shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        )
    return CLIPConfig(embed_dim, image, text)


def fill_token_table(state: dict[str, Tensor], source: str, vocab_size: int) -> dict[str, Tensor]:
    """Give a token table that holds only the rows named in `token_embedding.token_ids` its full size, others zero.

    The embedded demo models are stored so: they were trained on 4,026 of 49,408 tokens.
    """
    ids = state.get("token_embedding.token_ids")
    rows = state.get("token_embedding.weight")
    if ids is None or rows is None:
        return state
    fits = ids.ndim == 1 and rows.ndim == 2 and len(ids) == len(rows) and not ids.is_floating_point()
    if not fits or (len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size):
        raise CheckpointError(
            f"{source}: 'token_embedding.token_ids' does not number the rows of 'token_embedding.weight' below "
            f"{vocab_size}; use an undamaged checkpoint."
        )
    table = torch.zeros(vocab_size, rows.shape[1], dtype=rows.dtype)
    table[ids.long()] = rows
    rest = {key: value for key, value in state.items() if key != "token_embedding.token_ids"}
    return rest | {"token_embedding.weight": table}
