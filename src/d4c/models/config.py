"""The architecture of a CLIP, as frozen records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from d4c.errors import D4CError
from d4c.reading.ranges import DEPTH, PIXEL_MEAN, PIXEL_STD, RANGES, WIDTH
from d4c.reading.schema import List, OneOf, Record, check, record_kind

Activation = Literal["quick_gelu", "gelu"]
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageConfig:
    """What the configurations of all image towers share; each kind of tower has a subclass in `IMAGE_CONFIGS`.

    Attributes:
        image_size: Side of the square images in pixels.
    """

    image_size: int

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
    """

    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"

    def complaints(self) -> Iterator[str]:
        yield from uneven_heads("image", self.width, self.heads)
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


IMAGE_CONFIGS: dict[str, type[ImageConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}
"""The kinds of image towers by their names in config.json; `d4c.models.clip.IMAGE_TOWERS` builds the towers."""


def uneven_heads(tower: str, width: int, heads: int) -> Iterator[str]:
    """Yield a clause of an error message if a width does not divide evenly among its heads."""
    if width % heads:
        yield f"{tower} width {width} is not a multiple of its {heads} heads"


@dataclass(frozen=True)
class TextConfig:
    """A causal text transformer.

    Attributes:
        width: Channels of a token.
        layers: Number of blocks.
        heads: Attention heads per block.
        mlp_width: Hidden channels of the MLP in each block.
        activation: Activation of the MLPs.
        context_length: Number of tokens in a row, padding included.
        vocab_size: Number of token ids.
        eos_id: Token id of end-of-text; None if it is the largest id of a row.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    context_length: int = 77
    vocab_size: int = 49408
    eos_id: int | None = None

    def complaints(self) -> Iterator[str]:
        """Yield a clause of an error message for each group of sizes that contradict each other."""
        yield from uneven_heads("text", self.width, self.heads)
        if self.eos_id is not None and self.eos_id >= self.vocab_size:
            yield f"end-of-text has the id {self.eos_id}, beyond the vocabulary of {self.vocab_size}"


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the pixel statistics of the preprocessing.

    Attributes:
        embed_dim: Width of the embeddings.
        image: The image tower.
        text: The text tower.
        mean: Mean of the training pixels for red, green and blue, in [0, 1].
        std: Standard deviation of the same.
    """

    embed_dim: int
    image: ImageConfig
    text: TextConfig
    mean: tuple[float, float, float] = field(default=OPENAI_MEAN)
    std: tuple[float, float, float] = field(default=OPENAI_STD)

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold; `from_dict` reads it back."""
        data = asdict(self)
        data["image"]["kind"] = next(kind for kind, record in IMAGE_CONFIGS.items() if type(self.image) is record)
        return data

    @staticmethod
    def from_dict(data: Any, source: str, error: type[D4CError], advice: str) -> CLIPConfig:
        """Read what `to_dict` returns.

        Args:
            data: The content of a file, of any kind.
            source: Names the file in error messages.
            error: Class of the exception to raise.
            advice: What to do about it, as the end of the sentence.

        Raises:
            D4CError: Of class `error`, if the data are not the architecture of a CLIP.
        """
        check(data, Record({"image": Record({"kind": OneOf(tuple(IMAGE_CONFIGS))})}), source, error, advice)
        record = IMAGE_CONFIGS[data["image"]["kind"]]
        check(data, _kind(record), source, error, advice)
        # JSON turns tuples into lists.
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in data["image"].items() if key != "kind"
        }
        text = TextConfig(**data["text"])
        config = CLIPConfig(data["embed_dim"], record(**fields), text, tuple(data["mean"]), tuple(data["std"]))
        config.check(source, error, advice)
        return config

    def check(self, source: str, error: type[D4CError], advice: str) -> None:
        """Raise an error of class `error` for a field beyond its range or fields that contradict each other.

        Args:
            source: Names the file in error messages.
            error: Class of the exception to raise.
            advice: What to do about it, as the end of the sentence.
        """
        check(self.to_dict(), _kind(type(self.image)), source, error, advice)
        for clause in (*self.text.complaints(), *self.image.complaints()):
            raise error(f"{source}: {clause}; {advice}.")


def _kind(image: type[ImageConfig]) -> Record:
    """What the dictionary of a `CLIPConfig` with this kind of image tower may hold."""
    tower = image.kind()
    tower = Record({"kind": OneOf(tuple(IMAGE_CONFIGS)), **tower.required}, tower.optional, closed=True)
    text = record_kind(TextConfig, RANGES)
    return Record({"embed_dim": WIDTH, "image": tower, "text": text, "mean": PIXEL_MEAN, "std": PIXEL_STD}, closed=True)
