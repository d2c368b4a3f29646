"""Where the state dicts of `transformers.SiglipModel` and of open_clip with a timm tower hold our parameters."""

from __future__ import annotations

from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import Source, Stored
from d4c.models.formats.huggingface import huggingface_layout
from d4c.models.formats.openai import openai_layout
from d4c.models.formats.siglip.query_scores import QueryScores
from d4c.models.tower_config import ViTConfig

_HEAD = "vision_model.head"
_HUGGINGFACE = {
    "image.patch_embed.bias": Source("vision_model.embeddings.patch_embedding.bias"),
    "log_logit_scale": Source("logit_scale", leading=1),
    "sigmoid_bias": Source("logit_bias", leading=1),
    "text.projection.weight": Source("text_model.head.weight"),
    "text.projection.bias": Source("text_model.head.bias"),
}
_POOL = {
    "image.pool.out": f"{_HEAD}.attention.out_proj",
    "image.pool.norm": f"{_HEAD}.layernorm",
    "image.pool.mlp.fc1": f"{_HEAD}.mlp.fc1",
    "image.pool.mlp.fc2": f"{_HEAD}.mlp.fc2",
}

_TRUNK = "visual.trunk"
_TIMM = {
    "image.class_embedding": Source(f"{_TRUNK}.cls_token", leading=2),
    "image.positional_embedding": Source(f"{_TRUNK}.pos_embed", leading=1),
    "image.projection.weight": Source("visual.head.proj.weight"),
}
_TIMM_PARTS = {
    "image.patch_embed": f"{_TRUNK}.patch_embed.proj",
    "image.norm_pre": f"{_TRUNK}.norm_pre",
    "image.norm_post": f"{_TRUNK}.norm",
    "image.pool.out": f"{_TRUNK}.attn_pool.proj",
    "image.pool.norm": f"{_TRUNK}.attn_pool.norm",
    "image.pool.mlp.fc1": f"{_TRUNK}.attn_pool.mlp.fc1",
    "image.pool.mlp.fc2": f"{_TRUNK}.attn_pool.mlp.fc2",
}
_TIMM_BLOCK = {"attn.out": "attn.proj"}


def siglip_layout(config: CLIPConfig, ours: str) -> Stored:
    """Return where the state dict of a `transformers.SiglipModel` holds one of our parameters."""
    part, _, kind = ours.rpartition(".")
    if ours in _HUGGINGFACE:
        return _HUGGINGFACE[ours]
    if part in _POOL:
        return Source(f"{_POOL[part]}.{kind}")
    joint = f"{_HEAD}.attention.in_proj_"
    if part == "image.pool.v":
        return Source(f"{joint}{kind}", part=(2, 3))
    if part == "image.pool.scores":
        q, k = (tuple(Source(f"{joint}{each}", part=(i, 3)) for each in ("weight", "bias")) for i in (0, 1))
        return _scores(config, kind, Source(f"{_HEAD}.probe", leading=2), q, k)
    return huggingface_layout(ours)


def timm_layout(config: CLIPConfig, ours: str) -> Stored:
    """Return where the state dict of an open_clip model with an image tower of timm holds one of our parameters."""
    part, _, kind = ours.rpartition(".")
    if ours in _TIMM:
        return _TIMM[ours]
    if part in _TIMM_PARTS:
        return Source(f"{_TIMM_PARTS[part]}.{kind}")
    pool = f"{_TRUNK}.attn_pool"
    if part == "image.pool.v":
        return Source(f"{pool}.kv.{kind}", part=(1, 2))
    if part == "image.pool.scores":
        q = tuple(Source(f"{pool}.q.{each}") for each in ("weight", "bias"))
        k = tuple(Source(f"{pool}.kv.{each}", part=(0, 2)) for each in ("weight", "bias"))
        return _scores(config, kind, Source(f"{pool}.latent", leading=2), q, k)
    if part.startswith("image.blocks."):
        _, _, number, inner = part.split(".", 3)
        if inner in ("attn.q", "attn.k", "attn.v"):
            return Source(f"{_TRUNK}.blocks.{number}.attn.qkv.{kind}", part=("qkv".index(inner[-1]), 3))
        return Source(f"{_TRUNK}.blocks.{number}.{_TIMM_BLOCK.get(inner, inner)}.{kind}")
    return openai_layout(config, ours)


def _scores(config: CLIPConfig, kind: str, query: Source, q: tuple[Source, ...], k: tuple[Source, ...]) -> QueryScores:
    image = config.image
    assert isinstance(image, ViTConfig)
    return QueryScores(kind, query, (q[0], q[1]), (k[0], k[1]), image.width, image.heads)
