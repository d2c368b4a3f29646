"""What an evaluation says: accuracies with intervals and the distance to a float model, as frozen records."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from d4c.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054  # the normal quantile that leaves 2.5 % on each side


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
    """How far a model stands from the float model that it came from, on the same images and classes.

    `cosine` is the mean over images of the cosine between both embeddings. CLIP's embeddings lie in a narrow cone, so
    that even unrelated images have a high cosine; `centered_cosine` takes the float model's mean embedding away from
    both first. `text_cosine` is the mean over class embeddings. `agreement` is how often both choose the same class,
    `kl` the mean of KL(float || model) over their class probabilities, in nats.
    """

    cosine: float
    centered_cosine: float
    text_cosine: float
    agreement: Interval
    kl: float


@dataclass(frozen=True)
class Metrics:
    """Zero-shot accuracy on `count` images of `dataset`; `seconds` is the time spent on both towers and on decoding."""

    dataset: str
    count: int
    top1: Interval
    top5: Interval
    fidelity: Fidelity | None
    seconds: float

    def __str__(self) -> str:
        lines = [f"{self.dataset}, {self.count} images: top-1 {self.top1}, top-5 {self.top5}"]
        if (f := self.fidelity) is not None:
            lines.append(
                f"against float: cosine {f.cosine:.4f}, centered {f.centered_cosine:.4f}, text {f.text_cosine:.4f}, "
                f"same class {f.agreement}, KL {f.kl:.4f} nats"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Metrics:
        """Inverse of `to_dict`; raises DataError on anything else."""
        try:
            fields = dict(data)
            fields["top1"], fields["top5"] = Interval(**fields["top1"]), Interval(**fields["top5"])
            if fields["fidelity"] is not None:
                inner = dict(fields["fidelity"])
                fields["fidelity"] = Fidelity(**inner | {"agreement": Interval(**inner["agreement"])})
            return Metrics(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"These metrics are not what `Metrics.to_dict` writes ({error!r}); evaluate the model again."
            ) from None


def wilson(hits: int, count: int) -> Interval:
    """The proportion `hits / count` in percent with its 95 % Wilson score interval.

    Its ends are the two proportions p for which (hits / count - p)^2 = z^2 p (1 - p) / count; unlike the normal
    interval it stays within 0 and 100 % and is not empty at 0 or `count` hits.
    """
    share, spread = hits / count, Z95**2 / count
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    low = 0.0 if hits == 0 else center - half
    high = 1.0 if hits == count else center + half
    return Interval(100 * share, 100 * low, 100 * high)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand before the true one, [N], from scores [N, C] and labels [N].

    Of equal scores the smaller class index comes first, so rank 0 is the same as argmax being right.
    """
    import torch  # not above: saved metrics are read and shown without it

    label_scores = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > label_scores) | ((scores == label_scores) & earlier)).sum(1)
