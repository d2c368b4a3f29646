"""Reads the parameter names and the config.json of Hugging Face's `CLIPModel` and `MetaClip2Model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import Source
from d4c.models.formats.beside.image_processor import Pixels
from d4c.models.tower_config import NORM_EPS, Activation, TextConfig, ViTConfig
from d4c.reading.ranges import RANGES
from d4c.reading.schema import Record, check, shown

_TOWER = {"image": "vision_model", "text": "text_model"}
_WHOLE = {
    "log_logit_scale": "logit_scale",
    "sigmoid_bias": "logit_bias",
    "image.patch_embed.weight": "vision_model.embeddings.patch_embedding.weight",
    "image.class_embedding": "vision_model.embeddings.class_embedding",
    "image.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "image.projection.weight": "visual_projection.weight",
    "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text.projection.weight": "text_projection.weight",
}
_NORM = {
    "image.norm_pre": "vision_model.pre_layrnorm",
    "image.norm_post": "vision_model.post_layernorm",
    "text.norm_final": "text_model.final_layer_norm",
}
_ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def huggingface_layout(ours: str) -> Source:
    """Return where the state dict of a `transformers.CLIPModel` holds one of our parameters."""
    if ours in _WHOLE:
        return Source(_WHOLE[ours])
    part, _, kind = ours.rpartition(".")
    if part in _NORM:
        return Source(f"{_NORM[part]}.{kind}")
    tower, _, number, inner = part.split(".", 3)
    theirs = _BLOCK.get(inner) or f"self_attn.{inner.removeprefix('attn.')}_proj"
    return Source(f"{_TOWER[tower]}.encoder.layers.{number}.{theirs}.{kind}")


def section(config: Mapping[str, Any], tower: str, source: str) -> dict[str, Any]:
    """Return the "vision" or the "text" configuration; the `_dict` form in old files has precedence."""
    parts = [config.get(f"{tower}_config") or {}, config.get(f"{tower}_config_dict") or {}]
    if not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(f"{source}: '{tower}_config' is not a JSON object; use the folder of a CLIPModel.")
    return {**parts[0], **parts[1]}


def activation_of(part: Mapping[str, Any], source: str, default: str = "quick_gelu") -> Activation:
    """Return the activation of a tower; raises CheckpointError for one that d4c does not have."""
    name = part.get("hidden_act", default)
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise CheckpointError(
            f"{source}: hidden_act is {shown(name)}, expected 'quick_gelu' or 'gelu'; use a CLIP with one of those."
        )
    return _ACTIVATIONS[name]


def name_of(activation: Activation) -> str:
    """Return what transformers calls an activation."""
    return next(name for name, ours in _ACTIVATIONS.items() if ours == activation)


def norm_eps(part: Mapping[str, Any], source: str, default: float = NORM_EPS) -> float:
    """Return what the norms of a tower add to variances."""
    kind = Record({}, {"layer_norm_eps": RANGES["norm_eps"]})
    check(part, kind, source, CheckpointError, "correct config.json")
    return float(part.get("layer_norm_eps", default))


def huggingface_config(config: Mapping[str, Any], pixels: Pixels, source: str) -> CLIPConfig:
    """Translate a Hugging Face configuration; absent fields get the defaults of `transformers`, those of ViT-B/32.

    Args:
        config: The content of config.json.
        pixels: How pictures are prepared.
        source: Names the model in error messages.

    Returns:
        The configuration of the same architecture.

    Raises:
        CheckpointError: The model is not a CLIP, or has settings that the towers do not support.
    """
    if (kind := config.get("model_type")) not in ("clip", "metaclip_2"):
        raise CheckpointError(
            f"{source} holds a model of type {shown(kind)}, expected 'clip', 'metaclip_2' or 'siglip'; use one of "
            "those, since others such as the NaFlex forms of SigLIP 2 and the BERT of Chinese-CLIP are not supported."
        )
    image, text = section(config, "vision", source), section(config, "text", source)
    eos = text.get("eos_token_id", 49407)
    if type(eos) is not int:
        raise CheckpointError(
            f"{source}: eos_token_id is {shown(eos)}, expected one whole number; correct config.json."
        )
    return CLIPConfig(
        embed_dim=config.get("projection_dim", 512),
        image=ViTConfig(
            image_size=image.get("image_size", 224),
            patch_size=image.get("patch_size", 32),
            width=image.get("hidden_size", 768),
            layers=image.get("num_hidden_layers", 12),
            heads=image.get("num_attention_heads", 12),
            mlp_width=image.get("intermediate_size", 3072),
            activation=activation_of(image, source),
            norm_eps=norm_eps(image, source),
        ),
        text=TextConfig(
            width=text.get("hidden_size", 512),
            layers=text.get("num_hidden_layers", 12),
            heads=text.get("num_attention_heads", 8),
            mlp_width=text.get("intermediate_size", 2048),
            activation=activation_of(text, source),
            norm_eps=norm_eps(text, source),
            context_length=text.get("max_position_embeddings", 77),
            vocab_size=text.get("vocab_size", 49408),
            # Files of a CLIP from before transformers 4.31 say 2 but mean the largest id.
            eos_id=None if eos == 2 and kind == "clip" else eos,
        ),
        **pixels.fields(),
    )
