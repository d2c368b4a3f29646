"""Fingerprints the weights of a model, so that results can name the model that they come from."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def model_hash(model: nn.Module) -> str:
    """Hash the names, types, shapes and bytes of a model's parameters and buffers, in the order of their names.

    Models with the same hash have the same weights. The name of a model, its device and its source do not count.

    Args:
        model: The model.

    Returns:
        SHA-256 as hex digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
