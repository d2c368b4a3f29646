"""The results of an evaluation as frozen records: accuracies with intervals, and fidelity to a float model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from d4c.errors import DataError
from d4c.picture_files import skipped_summary
from d4c.reading.schema import Maybe, Number, Whole, check, record_kind

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054
"""The normal quantile that leaves 2.5 % on each side."""


@dataclass(frozen=True)
class Interval:
    """A proportion in percent with the two ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} % [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Fidelity:
    """How close a model is to the float model that it was made from, on the same images and classes.

    Args:
        cosine: Mean over images of the cosine between both embeddings.
        centered_cosine: The same after the float model's mean embedding is subtracted from both. CLIP's embeddings lie
            in a narrow cone, so that without it even unrelated images have a high cosine.
        text_cosine: Mean over classes of the cosine between both class embeddings.
        same_class: How often both choose the same class.
        kl: Mean over images of KL(float || model) of the class probabilities, in nats.
    """

    cosine: float
    centered_cosine: float
    text_cosine: float
    same_class: Interval
    kl: float


@dataclass(frozen=True)
class Metrics:
    """Zero-shot accuracy of a model on a dataset.

    Args:
        dataset: Name of the dataset.
        count: Number of images, without those that were skipped.
        top1: How often the true class has the highest score.
        top5: How often the true class is among the five highest scores.
        fidelity: Comparison with the float model, if there was one.
        seconds: Time that both towers and the decoding took.
        skipped: Why an image does not decode and was left out, one sentence each.
    """

    dataset: str
    count: int
    top1: Interval
    top5: Interval
    fidelity: Fidelity | None
    seconds: float
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.dataset}, {self.count} images: top-1 {self.top1}, top-5 {self.top5}"]
        if (f := self.fidelity) is not None:
            lines.append(
                f"against float: cosine {f.cosine:.4f}, centered {f.centered_cosine:.4f}, text {f.text_cosine:.4f}, "
                f"same class {f.same_class}, KL {f.kl:.4f} nats"
            )
        return "\n".join([*lines, *skipped_summary(self.skipped)])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form, which `from_dict` reads back."""
        return {**asdict(self), "skipped": list(self.skipped)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Metrics:
        """Read what `to_dict` wrote.

        Raises:
            DataError: The dictionary is anything else.
        """
        check(data, KIND, "The metrics", DataError, "evaluate the model again")
        fields = {**data, "top1": Interval(**data["top1"]), "top5": Interval(**data["top5"])}
        if (fidelity := data["fidelity"]) is not None:
            fields["fidelity"] = Fidelity(**{**fidelity, "same_class": Interval(**fidelity["same_class"])})
        return Metrics(**{**fields, "skipped": tuple(data.get("skipped", ()))})


_PERCENT = record_kind(Interval, {"float": Number(-1e-6, 100 + 1e-6)})
_FIDELITY = record_kind(Fidelity, {"float": Number(-1.01, 1.01), "kl": Number(-1, 1e6), "same_class": _PERCENT})
KIND = record_kind(
    Metrics,
    {
        "count": Whole(1, 1 << 40),
        "top1": _PERCENT,
        "top5": _PERCENT,
        "fidelity": Maybe(_FIDELITY),
        "seconds": Number(0, 1e9),
    },
)
"""What the dictionary of `Metrics.to_dict` holds."""


def wilson(hits: int, count: int) -> Interval:
    """Return the proportion `hits / count` in percent with its 95 % Wilson score interval (Wilson 1927).

    Its ends are the two proportions p for which (hits / count - p)^2 = z^2 p (1 - p) / count. Unlike the normal
    interval it stays within 0 and 100 % and is not empty at 0 or `count` hits.

    Args:
        hits: Number of hits.
        count: Number of trials, at least 1.
    """
    proportion, spread = hits / count, Z95**2 / count
    center = (proportion + spread / 2) / (1 + spread)
    half = math.sqrt(proportion * (1 - proportion) * spread + spread**2 / 4) / (1 + spread)
    low = 0.0 if hits == 0 else center - half
    high = 1.0 if hits == count else center + half
    return Interval(100 * proportion, 100 * low, 100 * high)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the classes that rank above the true one.

    Of equal scores the smaller class index ranks higher, so that rank 0 means that argmax is right.

    Args:
        scores: Scores [N, C].
        labels: True classes, int64 [N].

    Returns:
        Ranks from 0, int64 [N].
    """
    import torch  # not above: saved metrics are read and shown without it

    label_scores = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > label_scores) | ((scores == label_scores) & earlier)).sum(1)
