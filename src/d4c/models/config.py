"""The architecture of a CLIP and its preprocessing, as a frozen record that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from d4c.errors import D4CError
from d4c.models.tower_config import IMAGE_CONFIGS, ImageConfig, NoImageConfig, NoTextConfig, TextConfig, unlike_openai
from d4c.reading.ranges import PIXEL_MEAN, PIXEL_STD, RANGES, WIDTH
from d4c.reading.record_kind import record_kind
from d4c.reading.schema import Flag, Kind, Maybe, OneOf, Record, check

Resize = Literal["crop", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
TOWERS = ("image", "text")


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
