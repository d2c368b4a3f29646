"""Reads what Hugging Face saves of one tower alone: `CLIPVisionModel`, `CLIPTextModel`, both also with projection, and
`SiglipVisionModel` and `SiglipTextModel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from d4c.models.config import CLIPConfig
from d4c.models.formats.beside.vocabulary import clip_vocabulary
from d4c.models.inputs.tokenizer import END
from d4c.models.inputs.tokenizer_files import FILES as TOKENIZER_FILES
from d4c.models.tower_config import NoImageConfig, NoTextConfig, TextConfig, ViTConfig

TYPES = {
    "clip_vision_model": ("clip", "image"),
    "clip_text_model": ("clip", "text"),
    "metaclip_2_vision_model": ("metaclip_2", "image"),
    "metaclip_2_text_model": ("metaclip_2", "text"),
    "siglip_vision_model": ("siglip", "image"),
    "siglip_text_model": ("siglip", "text"),
}
"""What config.json calls a tower: the type of the whole model, and the tower."""
MODELS = {"image": "vision_model", "text": "text_model"}
"""What the names of each tower's weights begin with."""
_SECTIONS = {"image": "vision_config", "text": "text_config"}
PROJECTIONS = {"image": "visual_projection.weight", "text": "text_projection.weight"}
_MARKS = {"image": "embeddings.patch_embedding.weight", "text": "embeddings.token_embedding.weight"}


def as_joint(data: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the content of a config.json as if it were of both towers, and the tower that is alone, if one is."""
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in TYPES:
        return dict(data), None
    whole, tower = TYPES[kind]
    width = data.get("projection_dim", 512)
    return {"model_type": whole, "projection_dim": width, _SECTIONS[tower]: dict(data)}, tower


def lone_tower(state: Mapping[str, object]) -> str | None:
    """Return the tower that the names of Hugging Face's weights are of; None for both, and for other names."""
    bare = [tower for tower, mark in _MARKS.items() if mark in state]
    named = [tower for tower, model in MODELS.items() if any(key.startswith(f"{model}.") for key in state)]
    towers = bare or named
    return towers[0] if len(towers) == 1 else None


def with_model_names(state: Mapping[str, Tensor], tower: str) -> Mapping[str, Tensor]:
    """Return weights as both towers name them: models without projection are saved without `vision_model.`.

    The scale of the logits, which some files keep, takes both towers and is left out.
    """
    prefix = f"{MODELS[tower]}." if _MARKS[tower] in state else ""
    return {f"{prefix}{key}": value for key, value in state.items() if key not in ("logit_scale", "logit_bias")}


def alone(config: CLIPConfig, tower: str, state: Mapping[str, object]) -> CLIPConfig:
    """Return the configuration of one tower, all states of which are read, in place of that of both.

    Args:
        config: The configuration of both towers.
        tower: "image" or "text".
        state: The weights, which tell whether there is a projection.
    """
    part = config.image if tower == "image" else config.text
    assert isinstance(part, ViTConfig | TextConfig)
    # The projection of SigLIP's texts is part of the tower.
    projection = part.projection and (PROJECTIONS[tower] in state or "text_model.head.weight" in state)
    part = replace(part, projection=projection, all_states=True)
    width = config.embed_dim if projection else part.width
    image, text = (part, NoTextConfig()) if isinstance(part, ViTConfig) else (NoImageConfig(), part)
    return replace(config, embed_dim=width, image=image, text=text, sigmoid=False)


def tokenizer_folder(folder: Path) -> Path:
    """Return where the tokenizer of a text tower is: beside its weights, or as diffusers has it, in `tokenizer`."""
    sibling = folder.resolve().with_name(folder.resolve().name.replace("text_encoder", "tokenizer"))
    names = (*TOKENIZER_FILES, "vocab.json")
    return next((each for each in (folder, sibling) if any((each / name).is_file() for name in names)), folder)


def padding(folder: Path, read: Callable[[Path], dict[str, Any]]) -> int:
    """Return the id that CLIP's tokenizer in a folder fills rows with; by default the end of text, as in transformers.

    Args:
        folder: Folder with tokenizer_config.json, if there is one.
        read: Reads a JSON object from a file.
    """
    file = folder / TOKENIZER_FILES[1]
    token = read(file).get("pad_token") if file.is_file() else None
    text = token.get("content") if isinstance(token, dict) else token
    return clip_vocabulary().get(str(text or END), clip_vocabulary()[END])
