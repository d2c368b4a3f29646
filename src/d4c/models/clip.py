"""A CLIP: an image tower and a text tower, with the preprocessing of pictures and prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.models.alone.absent import AbsentImage, AbsentText
from d4c.models.config import TOWERS, CLIPConfig
from d4c.models.formats.native import write_native
from d4c.models.inputs.preprocess import pixels
from d4c.models.inputs.prompt_tokenizers import ClipTokenizer, PromptTokenizer
from d4c.models.resnet import ModifiedResNet
from d4c.models.text import TextTransformer
from d4c.models.tower import Tower
from d4c.models.tower_config import ImageConfig, NoImageConfig, ResNetConfig, ViTConfig
from d4c.models.vit import VisionTransformer
from d4c.pictures import Picture
from d4c.printable import printable
from d4c.templates import PHOTO_TEMPLATES
from d4c.zeroshot.classification import classify

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


TowerClass = Callable[[Any, int], Tower]
IMAGE_TOWERS: dict[type[ImageConfig], TowerClass] = {
    ViTConfig: VisionTransformer,
    ResNetConfig: ModifiedResNet,
    NoImageConfig: AbsentImage,
}
"""Builds the image tower for each class of configuration, from the configuration and the width of the embedding."""


class CLIP(nn.Module):
    """Both towers, the tokenizer, and the scale of their logits; or one tower alone.

    A new CLIP has random weights; `d4c.load` returns one with the weights of a checkpoint. Where there is one tower
    alone, something that refuses inputs is in place of the other (`d4c.models.alone.absent`), and there is no scale.

    Args:
        config: The architecture of both towers.
        name: A label for reports.
        image: The image tower, if not a new one.
        text: The text tower, if not a new one.
        log_logit_scale: Logarithm of the factor from cosine to logit, if not that of a training's start.
        sigmoid_bias: What is added to the logits of a model with a sigmoid, likewise.
        tokenizer: The tokenizer, if it is not CLIP's own.
    """

    log_logit_scale: nn.Parameter | None
    sigmoid_bias: nn.Parameter | None

    def __init__(
        self,
        config: CLIPConfig,
        name: str = "clip",
        *,
        image: Tower | None = None,
        text: TextTransformer | None = None,
        log_logit_scale: nn.Parameter | None = None,
        sigmoid_bias: nn.Parameter | None = None,
        tokenizer: PromptTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.name = printable(name)[:1000]
        self.image = IMAGE_TOWERS[type(config.image)](config.image, config.embed_dim) if image is None else image
        build_text = AbsentText if config.text.absent else TextTransformer
        self.text = build_text(config.text, config.embed_dim) if text is None else text
        pairs = len(config.towers) == len(TOWERS)
        start = nn.Parameter(torch.tensor(math.log(1 / 0.07))) if pairs and log_logit_scale is None else log_logit_scale
        self.register_parameter("log_logit_scale", start)
        bias = nn.Parameter(torch.tensor(-10.0)) if config.sigmoid and sigmoid_bias is None else sigmoid_bias
        self.register_parameter("sigmoid_bias", bias)
        own = config.text.tokenizer == "own" or config.text.absent
        self.tokenizer = tokenizer if own else ClipTokenizer(config.text.context_length, config.text.pad_id)

    def tower(self, name: str) -> Tower:
        """Return the "image" or the "text" tower."""
        return {"image": self.image, "text": self.text}[name]

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that there are: "image", "text" or both."""
        return self.config.towers

    def require(self, towers: Sequence[str], work: str, advice: str) -> None:
        """Refuse work that takes a tower which is not there.

        Args:
            towers: The towers that it takes.
            work: What is refused, as the subject of a sentence.
            advice: What to do instead, as the end of the sentence.

        Raises:
            SettingError: One of the towers is not there.
        """
        for name in towers:
            if name not in self.towers:
                raise SettingError(
                    f"{work} takes {'both towers' if len(towers) > 1 else f'the {name} tower'}, and {self.name!r} is "
                    f"the {self.towers[0]} tower alone; {advice}."
                )

    @property
    def logit_scale(self) -> float:
        """The factor from cosines to logits, about 100 in trained models; SettingError for one tower alone."""
        self.require(TOWERS, "A logit", "load a model with both")
        assert self.log_logit_scale is not None
        return float(self.log_logit_scale.exp())

    @property
    def logit_bias(self) -> float | None:
        """What is added to the logits of single pairs, whose sigmoid is a probability; None for a softmax."""
        return None if self.sigmoid_bias is None else float(self.sigmoid_bias)

    @property
    def image_size(self) -> int:
        """The side of the square input in pixels; SettingError for a text tower alone."""
        self.require(("image",), "A picture", "load a model that has it")
        return self.config.image.image_size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def outputs(self, tower: str, inputs: Tensor) -> dict[str, Tensor]:
        """Return what users of one tower read, by name (see `Tower.outputs`).

        Args:
            tower: "image" or "text".
            inputs: Preprocessed pixels [N, 3, S, S] or token ids [N, L].
        """
        return self.tower(tower).outputs(inputs)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Map preprocessed pixels [N, 3, S, S] to embeddings [N, D], which are not normalized to unit length."""
        self.require(("image",), "A picture", "load a model that has it")
        return self.image(pixels)

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Map preprocessed pixels [N, 3, S, S] to embeddings [N, P, D] of the patches, in the same space.

        Raises:
            SettingError: The image tower has no patches.
        """
        self.require(("image",), "A picture", "load a model that has it")
        patches = self.image.patch_embeddings(pixels)
        if patches is None:
            raise SettingError(f"The image tower of {self.name!r} has no patches; leave dense features out.")
        return patches

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Map token ids [N, L] to embeddings [N, D], which are not normalized to unit length."""
        self.require(("text",), "A prompt", "load a model that has it")
        return self.text(tokens)

    def preprocess(self, picture: Picture) -> Tensor:
        """Map a picture of any size and mode to normalized pixels [3, S, S].

        Args:
            picture: A Pillow image, a path, an encoded file as bytes, an open file or an array (see `d4c.pictures`).

        Raises:
            DataError: The picture is empty or does not decode.
        """
        c = self.config
        return torch.from_numpy(pixels(picture, self.image_size, c.mean, c.std, c.resize, c.interpolation))

    def normalize(self, pictures: Tensor) -> Tensor:
        """Map pictures [N, 3, S, S] with values in [0, 1] to normalized pixels on the same device."""
        mean, std = (
            torch.tensor(channels, device=pictures.device)[:, None, None]
            for channels in (self.config.mean, self.config.std)
        )
        return (pictures - mean) / std

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Map prompts to token ids [N, context length]; raises DataError for anything but strings."""
        return torch.from_numpy(self.prompt_tokenizer().token_ids(texts))

    def prompt_tokenizer(self) -> PromptTokenizer:
        """Return the tokenizer; raises SettingError for a model that was built without the one that it needs."""
        self.require(("text",), "A prompt", "load a model that has it")
        if self.tokenizer is None:
            raise SettingError(
                f"{self.name!r} reads prompts with a tokenizer of its own, which it was built without; "
                "load it with d4c.load, or pass the tokenizer."
            )
        return self.tokenizer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and a tokenizer of its own, which `d4c.load` reads back.

        Args:
            folder: Where to write; an earlier model there is replaced.

        Raises:
            ArtifactError: The folder holds something other than an earlier model.
        """
        own = self.tokenizer.save if self.tokenizer and self.config.text.tokenizer == "own" else None
        write_native(self.config, self.name, self.state_dict(), Path(folder), own)

    @torch.no_grad()
    def classify(
        self, images: Sequence[Picture], labels: Sequence[str], templates: Sequence[str] = PHOTO_TEMPLATES
    ) -> NDArray[np.float32]:
        """Classify pictures by the names of their classes, without training.

        Args:
            images: Paths, encoded bytes, open files, arrays or Pillow images, N of them.
            labels: Names of the classes, L of them.
            templates: Prompts with "{}" where the name goes; their embeddings are averaged.

        Returns:
            The probability of each label for each picture, [N, L]: of one label among all, or with a sigmoid, of each
            label alone.

        Raises:
            DataError: A picture does not decode, or `images`, `labels` or `templates` is not a list that can be used.
        """

        def embed_images(pictures: Iterable[Image]) -> NDArray[np.float32]:
            pixels = torch.stack([self.preprocess(picture) for picture in pictures])
            return self.encode_image(pixels.to(self.device)).float().cpu().numpy()

        return classify(
            images,
            labels,
            templates=templates,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            embed_images=embed_images,
            tokenize=self.tokenize,
            embed_tokens=lambda ids: self.encode_text(torch.from_numpy(ids).to(self.device)).float().cpu().numpy(),
        )
