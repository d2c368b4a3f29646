"""Shapes of a CLIP, as frozen records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from d4c.models.layers import Activation

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageConfig:
    """What the configurations of all image towers have: square images of `image_size` pixels.

    A kind of tower adds fields of its own, and an entry in `IMAGE_CONFIGS`.
    """

    image_size: int

    def sizes(self) -> dict[str, Any]:
        """What must be positive whole numbers, by what it is called in a message."""
        return {"image size": self.image_size}

    def complaints(self) -> Iterator[str]:
        """Clauses that say which sizes do not go together."""
        yield from ()


@dataclass(frozen=True)
class ViTConfig(ImageConfig):
    """A vision transformer: square images of `image_size` pixels in patches of `patch_size`."""

    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"

    def sizes(self) -> dict[str, Any]:
        out = {**super().sizes(), "image width": self.width, "patch size": self.patch_size}
        return out | {"image layers": self.layers, "image heads": self.heads, "image MLP width": self.mlp_width}

    def complaints(self) -> Iterator[str]:
        yield from uneven_heads("image", self.width, self.heads)
        if self.patch_size > self.image_size:
            yield f"patches of {self.patch_size} pixels do not fit an image of {self.image_size}"


@dataclass(frozen=True)
class ResNetConfig(ImageConfig):
    """OpenAI's ModifiedResNet: three-convolution stem, anti-aliased strides, attention pooling with `heads`."""

    width: int
    layers: tuple[int, int, int, int]
    heads: int

    def sizes(self) -> dict[str, Any]:
        depths = {f"depth of stage {i}": depth for i, depth in enumerate(self.layers, 1)}
        return {**super().sizes(), "image width": self.width, **depths, "heads of the attention pool": self.heads}

    def complaints(self) -> Iterator[str]:
        yield from uneven_heads("image", self.width * 32, self.heads)
        if self.image_size % 32:
            yield f"image size {self.image_size} is not a multiple of 32"


IMAGE_CONFIGS: dict[str, type[ImageConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}
"""The kinds of image towers; `d4c.models.clip.IMAGE_TOWERS` has the towers."""


def uneven_heads(tower: str, width: int, heads: int) -> Iterator[str]:
    """A clause about a width that its heads do not share out evenly."""
    if width % heads:
        yield f"{tower} width {width} is not a multiple of its {heads} heads"


@dataclass(frozen=True)
class TextConfig:
    """A causal text transformer; `eos_id` None means that end-of-text is the largest token id of a row."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    context_length: int = 77
    vocab_size: int = 49408
    eos_id: int | None = None


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the pixel statistics of the preprocessing."""

    embed_dim: int
    image: ImageConfig
    text: TextConfig
    mean: tuple[float, float, float] = field(default=OPENAI_MEAN)
    std: tuple[float, float, float] = field(default=OPENAI_STD)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        out = asdict(self)
        out["image"]["kind"] = next(kind for kind, record in IMAGE_CONFIGS.items() if type(self.image) is record)
        return out

    @staticmethod
    def from_dict(data: dict[str, Any]) -> CLIPConfig:
        """Inverse of `to_dict`; raises KeyError or TypeError on other shapes of data."""
        image = dict(data["image"])
        record = IMAGE_CONFIGS[image.pop("kind")]
        # JSON has lists for tuples.
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in image.items()}
        vision = record(**fields)
        return CLIPConfig(
            data["embed_dim"], vision, TextConfig(**data["text"]), tuple(data["mean"]), tuple(data["std"])
        )
