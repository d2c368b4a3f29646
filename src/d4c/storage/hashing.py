"""Fingerprints of tensors by name, so that the same values are known again and a flipped bit is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes of tensors, in the order of their names.

    Args:
        tensors: The tensors, on any device.

    Returns:
        SHA-256 as hex digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
