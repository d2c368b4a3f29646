"""Lets open_clip and transformers be imported beside a PyTorch for the CPU."""

from __future__ import annotations

from functools import cache

import torch


@cache
def declare_operators() -> torch.library.Library:
    """Declare what torchvision's wheels for CUDA miss beside a PyTorch for the CPU; nothing here calls it."""
    library = torch.library.Library("torchvision", "DEF")
    if torch.version.cuda is None:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
