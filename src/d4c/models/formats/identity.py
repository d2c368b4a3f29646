"""Fingerprints the weights of a model, so that results can name the model that they come from."""

from __future__ import annotations

from torch import nn

from d4c.hashing import tensors_hash


def model_hash(model: nn.Module) -> str:
    """Hash the names, types, shapes and bytes of a model's parameters and buffers, in the order of their names.

    Models with the same hash have the same weights. The name of a model, its device and its source do not count.

    Args:
        model: The model.

    Returns:
        SHA-256 as hex digits.
    """
    return tensors_hash(model.state_dict())
