"""The architecture of a CLIP, as frozen records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from d4c.errors import D4CError
from d4c.reading.ranges import DEPTH, PIXEL_MEAN, PIXEL_STD, RANGES, WIDTH
from d4c.reading.record_kind import record_kind
from d4c.reading.schema import Flag, Kind, List, Maybe, OneOf, Record, check

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
ImagePooling = Literal["token", "average", "attention"]
TextPooling = Literal["end", "last"]
Resize = Literal["crop", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
TokenizerKind = Literal["clip", "own"]
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
TOWERS = ("image", "text")
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


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers, or one alone, and the pixel statistics of the preprocessing.

    Attributes:
        embed_dim: Width of the embeddings.
        image: The image tower.
        text: The text tower.
        mean: Mean of the training pixels for red, green and blue, in [0, 1].
        std: Standard deviation of the same.
        resize: Whether a picture is cropped to a square after its shorter side was resized, or squashed into one.
        interpolation: How pictures are resized.
        sigmoid: Whether each pair of image and text has a probability of its own, sigmoid(scale * cosine + bias).
    """

    embed_dim: int
    image: ImageConfig
    text: TextConfig
    mean: tuple[float, float, float] = field(default=OPENAI_MEAN)
    std: tuple[float, float, float] = field(default=OPENAI_STD)
    resize: Resize = "crop"
    interpolation: Interpolation = "bicubic"
    sigmoid: bool = False

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that there are: "image", "text" or both."""
        return tuple(name for name in TOWERS if not getattr(self, name).absent)

    @property
    def has_plain_towers(self) -> bool:
        """Whether both towers are of the kind that OpenAI's CLIPs have, which every tool for CLIPs knows."""
        return not unlike_openai(self.image) and not unlike_openai(self.text)

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold; `from_dict` reads it back."""
        data = asdict(self)
        data["image"]["kind"] = next((kind for kind, record in IMAGE_CONFIGS.items() if type(self.image) is record), "")
        return data | {name: None for name in TOWERS if name not in self.towers}

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
        check(data, Record({"image": Maybe(Record({"kind": OneOf(tuple(IMAGE_CONFIGS))}))}), source, error, advice)
        kind = NoImageConfig if data["image"] is None else IMAGE_CONFIGS[data["image"]["kind"]]
        check(data, _kind(kind), source, error, advice)
        # JSON turns tuples into lists.
        image: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in (data["image"] or {}).items() if key != "kind"
        }
        config = CLIPConfig(
            embed_dim=data["embed_dim"],
            image=kind(**image),
            text=NoTextConfig() if data["text"] is None else TextConfig(**data["text"]),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            **{key: data[key] for key in _OPTIONAL if key in data},
        )
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
        for clause in (*self.text.complaints(), *self.image.complaints(), *self._contradictions()):
            raise error(f"{source}: {clause}; {advice}.")

    def _contradictions(self) -> Iterator[str]:
        if not self.towers:
            yield "there is neither an image tower nor a text tower"
        if self.sigmoid and len(self.towers) == 1:
            yield "pairs have probabilities, and there is one tower"
        for name in self.towers:
            tower = getattr(self, name)
            width = getattr(tower, "width", self.embed_dim)
            if not getattr(tower, "projection", True) and width != self.embed_dim:
                yield f"{name} width {width} is not that of the embedding, {self.embed_dim}, and nothing projects"


def unlike_openai(tower: ImageConfig | TextConfig) -> dict[str, Any]:
    """Return the fields of a tower whose values no CLIP of OpenAI has."""
    return {
        item.name: getattr(tower, item.name)
        for item in fields(tower)
        if item.default is not MISSING and item.name not in _ANY and getattr(tower, item.name) != item.default
    }


_ANY = ("activation", "context_length", "vocab_size", "eos_id", "norm_eps")
"""Fields of towers with defaults that differ among CLIPs of OpenAI's kind."""

_OPTIONAL: dict[str, Kind] = {
    "resize": OneOf(get_args(Resize)),
    "interpolation": OneOf(get_args(Interpolation)),
    "sigmoid": Flag(),
}
"""Fields of a `CLIPConfig` that have defaults."""


def _kind(image: type[ImageConfig]) -> Record:
    """What the dictionary of a `CLIPConfig` with this kind of image tower may hold."""
    needed: dict[str, Kind] = {"embed_dim": WIDTH, "mean": PIXEL_MEAN, "std": PIXEL_STD}
    needed |= {"image": _image_kind(image), "text": Maybe(record_kind(TextConfig, RANGES))}
    return Record(needed, _OPTIONAL, closed=True)


def _image_kind(image: type[ImageConfig]) -> Kind:
    if image.absent:
        return OneOf((None,))
    kind = image.kind()
    return Record({"kind": OneOf(tuple(IMAGE_CONFIGS)), **kind.required}, kind.optional, closed=True)
