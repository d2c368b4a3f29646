"""Fingerprints the weights of a model, so that results can name the model that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from d4c.storage.hashing import tensors_hash

if TYPE_CHECKING:
    from d4c.models.clip import CLIP


def model_hash(model: nn.Module) -> str:
    """Hash the names, types, shapes and bytes of a model's parameters and buffers, in the order of their names.

    Models with the same hash have the same weights. The name of a model, its device and its source do not count.

    Args:
        model: The model.

    Returns:
        SHA-256 as hex digits.
    """
    return tensors_hash(model.state_dict())


def model_record(clip: CLIP) -> dict[str, Any]:
    """Return what results say of the float model that they come from: its name, its weights, and how it computes."""
    text = clip.config.text
    heads = [getattr(clip.config.image, "heads", None), text.heads]
    return {"name": clip.name, "sha256": model_hash(clip), "activation": text.activation, "heads": heads}
