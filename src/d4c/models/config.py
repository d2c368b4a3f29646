"""Shapes of a CLIP, as frozen records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from d4c.models.layers import Activation

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer: square images of `image_size` pixels in patches of `patch_size`."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"


@dataclass(frozen=True)
class ResNetConfig:
    """OpenAI's ModifiedResNet: three-convolution stem, anti-aliased strides, attention pooling with `heads`."""

    image_size: int
    width: int
    layers: tuple[int, int, int, int]
    heads: int


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
    image: ViTConfig | ResNetConfig
    text: TextConfig
    mean: tuple[float, float, float] = field(default=OPENAI_MEAN)
    std: tuple[float, float, float] = field(default=OPENAI_STD)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        out = asdict(self)
        out["image"]["kind"] = "resnet" if isinstance(self.image, ResNetConfig) else "vit"
        return out

    @staticmethod
    def from_dict(data: dict[str, Any]) -> CLIPConfig:
        """Inverse of `to_dict`; raises KeyError or TypeError on other shapes of data."""
        image = dict(data["image"])
        kind = image.pop("kind")
        vision: ViTConfig | ResNetConfig
        if kind == "resnet":
            image["layers"] = tuple(image["layers"])
            vision = ResNetConfig(**image)
        elif kind == "vit":
            vision = ViTConfig(**image)
        else:
            raise KeyError(kind)
        return CLIPConfig(
            data["embed_dim"], vision, TextConfig(**data["text"]), tuple(data["mean"]), tuple(data["std"])
        )
