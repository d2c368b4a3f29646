"""Models to take times of: the embedded ones, and published shapes with random weights."""

from __future__ import annotations

import torch

import d4c
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig, ResNetConfig, TextConfig, ViTConfig

CONFIGS = {
    "ViT-B-32": CLIPConfig(512, ViTConfig(224, 32, 768, 12, 12, 3072), TextConfig(512, 12, 8, 2048)),
    "RN50": CLIPConfig(1024, ResNetConfig(224, 64, (3, 4, 6, 3), 32), TextConfig(512, 12, 8, 2048)),
    "ViT-L-14": CLIPConfig(768, ViTConfig(224, 14, 1024, 24, 16, 4096), TextConfig(768, 12, 12, 3072)),
}
MODELS = ("demo-vit", "demo-rn", *CONFIGS)


def make_clip(name: str, device: str, seed: int) -> CLIP:
    """An embedded model, or random weights in the shape of a published one: time depends on shapes alone."""
    if name not in CONFIGS:
        return d4c.load(name, device=device)
    torch.manual_seed(seed)
    return CLIP(CONFIGS[name], name).eval().requires_grad_(False).to(device)
