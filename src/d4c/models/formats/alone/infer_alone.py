"""Infers the architecture of one tower alone from the names and shapes of Hugging Face's weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.formats.alone.one_tower import MODELS, PROJECTIONS, alone
from d4c.models.formats.beside.image_processor import HALF
from d4c.models.formats.beside.vocabulary import clip_vocabulary
from d4c.models.formats.openai import count, grid_side, shape_of
from d4c.models.formats.siglip.siglip_configs import EPS, HEADS, LAST, LATENT
from d4c.models.inputs.tokenizer import END
from d4c.models.tower_config import Activation, TextConfig, ViTConfig


def infer_alone(state: Mapping[str, Tensor], tower: str, source: str, heads: tuple[int, int] | None) -> CLIPConfig:
    """Infer the architecture of one tower from names and shapes.

    Activations are QuickGELU, as in OpenAI's models, or for a SigLIP GELU by tanh.

    Args:
        state: The weights, with the names that both towers have.
        tower: "image" or "text".
        source: Names them in error messages.
        heads: Attention heads of the image and of the text tower, if they are known.

    Raises:
        CheckpointError: A weight that gives a size is missing or misshapen, or the number of heads would be a guess.
    """
    model = MODELS[tower]
    shape = partial(shape_of, state, source=source)
    siglip = any(key.startswith(f"{model}.head.") for key in state)
    act: Activation = "gelu_tanh" if siglip else "quick_gelu"
    layers = count(state, rf"{model}\.encoder\.layers\.(\d{{1,4}})\.")
    mlp_width = shape(f"{model}.encoder.layers.0.mlp.fc1.weight", 2)[0]
    positions = shape(f"{model}.embeddings.position_embedding.weight", 2)[0]
    norm: dict[str, Any] = {"norm_eps": EPS} if siglip else {}
    image, text = ViTConfig(32, 32, 64, 1, 1, 64), TextConfig(64, 1, 1, 64)
    if tower == "image":
        width, _, _, patch = shape(f"{model}.embeddings.patch_embedding.weight", 4)
        size = patch * grid_side(positions if not siglip else positions + 1)
        number = heads[0] if heads else _heads(width, siglip, source)
        norm |= LATENT if siglip else {}
        image = ViTConfig(size, patch, width, layers, number, mlp_width, act, **norm)
    else:
        vocabulary, width = shape(f"{model}.embeddings.token_embedding.weight", 2)
        number = heads[1] if heads else HEADS.get(width, max(width // 64, 1)) if siglip else max(width // 64, 1)
        norm |= LAST if siglip else {"pad_id": clip_vocabulary()[END]}
        text = TextConfig(width, layers, number, mlp_width, act, positions, vocabulary, **norm)
    head = next((name for name in (PROJECTIONS[tower], f"{model}.head.weight") if name in state), None)
    embed_dim = width if head is None else shape(head, 2)[0]
    pixels: dict[str, Any] = {"mean": HALF, "std": HALF, "resize": "squash"} if siglip else {}
    return alone(CLIPConfig(embed_dim, image, text, **pixels), tower, state)


def _heads(width: int, siglip: bool, source: str) -> int:
    """Attention heads of an image tower, which are 64 channels wide up to L."""
    if not siglip and width > 1024:
        raise CheckpointError(
            f"{source} has an image tower of width {width}, whose number of heads cannot be inferred from the weights; "
            "pass the folder that holds its config.json, or name them with heads (--heads)."
        )
    return HEADS.get(width, max(width // 64, 1)) if siglip else max(width // 64, 1)
