"""A CLIP: an image tower, a text tower, and what turns pictures and words into their inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d4c.models.config import CLIPConfig, ImageConfig, ResNetConfig, ViTConfig
from d4c.models.formats.native import write_native
from d4c.models.preprocess import preprocess
from d4c.models.resnet import ModifiedResNet
from d4c.models.text import TextTransformer
from d4c.models.tokenizer import tokenize
from d4c.models.tower import Tower
from d4c.models.vit import VisionTransformer
from d4c.templates import PHOTO_TEMPLATES
from d4c.zeroshot.classification import Picture, classify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


TowerClass = Callable[[Any, int], Tower]
IMAGE_TOWERS: dict[type[ImageConfig], TowerClass] = {ViTConfig: VisionTransformer, ResNetConfig: ModifiedResNet}
"""What makes the image tower of a kind of configuration, given it and the width of the embedding."""

TOWERS = ("image", "text")


class CLIP(nn.Module):
    """Both towers with the scale of their logits.

    Built with random weights; `d4c.load` fills in a checkpoint. `name` is only a label for reports.
    """

    def __init__(self, config: CLIPConfig, name: str = "clip") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.image = IMAGE_TOWERS[type(config.image)](config.image, config.embed_dim)
        self.text = TextTransformer(config.text, config.embed_dim)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def tower(self, name: str) -> Tower:
        """The "image" or the "text" tower."""
        return {"image": self.image, "text": self.text}[name]

    @property
    def logit_scale(self) -> float:
        """Factor from cosine to logit, about 100 in trained models."""
        return float(self.log_logit_scale.exp())

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.config.image.image_size

    @property
    def device(self) -> torch.device:
        return self.log_logit_scale.device

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels [N, 3, S, S] to embeddings [N, D], not normalized to unit length."""
        return self.image(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [N, L] to embeddings [N, D], not normalized to unit length."""
        return self.text(tokens)

    def preprocess(self, image: Image) -> Tensor:
        """A picture of any size and mode to normalized pixels [3, S, S]."""
        return preprocess(image, self.image_size, self.config.mean, self.config.std)

    def normalize(self, pictures: Tensor) -> Tensor:
        """Pictures [N, 3, S, S] with values in [0, 1] to normalized pixels, on the device of the pictures."""
        mean, std = (
            torch.tensor(v, device=pictures.device)[:, None, None] for v in (self.config.mean, self.config.std)
        )
        return (pictures - mean) / std

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Prompts to token ids [N, context length]."""
        return tokenize(texts, self.config.text.context_length)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which `d4c.load` reads back.

        Raises ArtifactError if something other than an earlier model is in `folder`.
        """
        write_native(self.config, self.name, self.state_dict(), Path(folder))

    @torch.no_grad()
    def classify(
        self, images: Sequence[Picture], labels: Sequence[str], templates: Sequence[str] = PHOTO_TEMPLATES
    ) -> NDArray[np.float32]:
        """Probabilities [N, L] of labels for pictures (files or PIL images); see `d4c.zeroshot.classification`."""

        def embed_images(pictures: list[Image]) -> NDArray[np.float32]:
            pixels = torch.stack([self.preprocess(picture) for picture in pictures])
            return self.encode_image(pixels.to(self.device)).float().cpu().numpy()

        return classify(
            images,
            labels,
            templates=templates,
            logit_scale=self.logit_scale,
            embed_images=embed_images,
            embed_texts=lambda prompts: self.encode_text(self.tokenize(prompts).to(self.device)).float().cpu().numpy(),
        )
