"""The architecture of each tower of a CLIP, as frozen records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal

from d4c.reading.ranges import DEPTH, RANGES
from d4c.reading.record_kind import record_kind
from d4c.reading.schema import List, Record

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
ImagePooling = Literal["token", "average", "attention"]
TextPooling = Literal["end", "last"]
TokenizerKind = Literal["clip", "own"]
NORM_EPS = 1e-5
"""What a LayerNorm adds to variances, unless a configuration says otherwise."""


@dataclass(frozen=True)
class ImageConfig:
    """What the configurations of all image towers share; each kind of tower has a subclass in `IMAGE_CONFIGS`.

    Attributes:
        image_size: Side of the square images in pixels.
    """

    image_size: int
    absent: ClassVar[bool] = False

    @classmethod
    def kind(cls) -> Record:
        """Return what the fields may be."""
        return record_kind(cls, RANGES)

    def complaints(self) -> Iterator[str]:
        """Yield a clause of an error message for each group of sizes that contradict each other."""
        yield from ()


@dataclass(frozen=True)
class ViTConfig(ImageConfig):
    """A vision transformer.

    Attributes:
        patch_size: Side of the square patches in pixels.
        width: Channels of a token.
        layers: Number of blocks.
        heads: Attention heads per block.
        mlp_width: Hidden channels of the MLP in each block.
        activation: Activation of the MLPs.
        class_token: Whether a learned token comes before the patches.
        patch_bias: Whether the patch embedding has a bias.
        norm_pre: Whether a LayerNorm comes before the first block.
        pooling: What becomes the embedding: the class token, the average of the patches, or what a learned query
            attends to (`LatentPool`).
        norm_first: Whether the last LayerNorm comes before pooling, as always with "attention"; of a class token, the
            order does not count.
        projection: Whether a linear layer maps to the embedding; if not, the width is that of the embedding.
        norm_eps: What a LayerNorm adds to variances.
        all_states: Whether the states of all rows are read, as by language models that see, and not one alone.
    """

    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    class_token: bool = True
    patch_bias: bool = False
    norm_pre: bool = True
    pooling: ImagePooling = "token"
    norm_first: bool = False
    projection: bool = True
    norm_eps: float = NORM_EPS
    all_states: bool = False

    def complaints(self) -> Iterator[str]:
        yield from uneven_heads("image", self.width, self.heads)
        if self.pooling == "token" and not self.class_token:
            yield "the embedding is that of a class token, and there is none"
        if self.pooling == "attention" and not self.norm_first:
            yield "attention pooling reads what the last LayerNorm gives, and that comes later"
        if self.patch_size > self.image_size:
            yield f"patch size {self.patch_size} is larger than image size {self.image_size}"


@dataclass(frozen=True)
class ResNetConfig(ImageConfig):
    """OpenAI's ModifiedResNet: a stem of three convolutions, anti-aliased strides, attention pooling.

    Attributes:
        width: Channels after the stem.
        layers: Number of bottlenecks in each of the four stages.
        heads: Heads of the attention pool.
    """

    width: int
    layers: tuple[int, int, int, int]
    heads: int

    @classmethod
    def kind(cls) -> Record:
        return record_kind(cls, {**RANGES, "layers": List(DEPTH, 4, 4)})

    def complaints(self) -> Iterator[str]:
        yield from uneven_heads("image", self.width * 32, self.heads)
        if self.image_size % 32:
            yield f"image size {self.image_size} is not a multiple of 32"


@dataclass(frozen=True)
class NoImageConfig(ImageConfig):
    """In place of an image tower, where a text tower is alone."""

    image_size: int = 0
    absent: ClassVar[bool] = True


IMAGE_CONFIGS: dict[str, type[ImageConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}
"""The kinds of image towers by their names in config.json; `d4c.models.clip.IMAGE_TOWERS` builds the towers."""


def uneven_heads(tower: str, width: int, heads: int) -> Iterator[str]:
    """Yield a clause of an error message if a width does not divide evenly among its heads."""
    if width % heads:
        yield f"{tower} width {width} is not a multiple of its {heads} heads"


@dataclass(frozen=True)
class TextConfig:
    """A text transformer.

    Attributes:
        width: Channels of a token.
        layers: Number of blocks.
        heads: Attention heads per block.
        mlp_width: Hidden channels of the MLP in each block.
        activation: Activation of the MLPs.
        context_length: Number of tokens in a row, padding included.
        vocab_size: Number of token ids.
        eos_id: Token id of end-of-text; None if it is the largest id of a row.
        causal: Whether a position attends only to itself and those before it.
        pooling: Which position becomes the embedding: that of end-of-text, or the last one, padded or not.
        projection: Whether a linear layer maps to the embedding; if not, the width is that of the embedding.
        projection_bias: Whether that layer has a bias.
        norm_eps: What a LayerNorm adds to variances.
        tokenizer: CLIP's own, or one that the checkpoint brings.
        pad_id: The token that CLIP's tokenizer fills rows with.
        all_states: Whether the states of all positions are read, as by diffusion models, and not one alone.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    context_length: int = 77
    vocab_size: int = 49408
    eos_id: int | None = None
    causal: bool = True
    pooling: TextPooling = "end"
    projection: bool = True
    projection_bias: bool = False
    norm_eps: float = NORM_EPS
    tokenizer: TokenizerKind = "clip"
    pad_id: int = 0
    all_states: bool = False
    absent: ClassVar[bool] = False

    @property
    def every_position_counts(self) -> bool:
        """Whether what follows the end of a prompt reaches the outputs, so that rows must be padded in full."""
        return not self.causal or self.pooling == "last" or self.all_states

    def complaints(self) -> Iterator[str]:
        """Yield a clause of an error message for each group of sizes that contradict each other."""
        yield from uneven_heads("text", self.width, self.heads)
        if self.eos_id is not None and self.eos_id >= self.vocab_size:
            yield f"end-of-text has the id {self.eos_id}, beyond the vocabulary of {self.vocab_size}"


@dataclass(frozen=True)
class NoTextConfig(TextConfig):
    """In place of a text tower, where an image tower is alone."""

    width: int = 0
    layers: int = 0
    heads: int = 0
    mlp_width: int = 0
    context_length: int = 0
    vocab_size: int = 0
    absent: ClassVar[bool] = True

    def complaints(self) -> Iterator[str]:
        yield from ()


def unlike_openai(tower: ImageConfig | TextConfig) -> dict[str, Any]:
    """Return the fields of a tower whose values no CLIP of OpenAI has."""
    return {
        item.name: getattr(tower, item.name)
        for item in fields(tower)
        if item.default is not MISSING and item.name not in _ANY and getattr(tower, item.name) != item.default
    }


_ANY = ("activation", "context_length", "vocab_size", "eos_id", "norm_eps")
"""Fields of towers with defaults that differ among CLIPs of OpenAI's kind."""
