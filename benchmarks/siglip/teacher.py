"""A trained CLIP that says what photographs show."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import d4c
from benchmarks.siglip.captions import clean
from d4c.templates import PHOTO_TEMPLATES, fill_template


class Teacher:
    """What a CLIP takes photographs for, among the classes of both sets.

    Args:
        path: Its checkpoint.
        names: Names of the classes.
        device: Where it works.
    """

    @torch.no_grad()
    def __init__(self, path: Path, names: tuple[str, ...], device: str) -> None:
        self.clip = d4c.load(path, device=device).requires_grad_(False)
        prompts = [fill_template(t, clean(name)) for name in names for t in PHOTO_TEMPLATES]
        text = F.normalize(self.clip.encode_text(self.clip.tokenize(prompts).to(device)), dim=-1)
        self.text = F.normalize(text.view(len(names), len(PHOTO_TEMPLATES), -1).mean(1), dim=-1)
        config = self.clip.config
        self.mean, self.std = (
            torch.tensor(triple, device=device)[:, None, None] for triple in (config.mean, config.std)
        )

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the probability of each class [N, classes] for pixels in [0, 1]."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            image = self.clip.encode_image((pixels - self.mean) / self.std)
        return (self.clip.logit_scale * F.normalize(image.float(), dim=-1) @ self.text.T).softmax(-1)
