"""The results of an evaluation as frozen records: figures with intervals, and fidelity to a float model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from d4c.errors import DataError
from d4c.evaluation.metrics.intervals import Interval
from d4c.picture_files import skipped_summary
from d4c.reading.record_kind import record_kind
from d4c.reading.schema import List, Maybe, Number, Record, Table, Text, Whole, check

FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_recall": "mean recall of classes",
    "calibration_error": "calibration error",
    "mean_average_precision": "mean average precision",
    "text_recall1": "image to text, best 1",
    "text_recall5": "image to text, best 5",
    "text_recall10": "image to text, best 10",
    "image_recall1": "text to image, best 1",
    "image_recall5": "text to image, best 5",
    "image_recall10": "text to image, best 10",
}
"""What each figure is called, all of them in percent. Which ones there are depends on the dataset."""
LEADING = ("top1", "mean_average_precision", "text_recall1")
"""The figure that a dataset with classes, with tags or with captions is judged by."""


@dataclass(frozen=True)
class Fidelity:
    """How close a model is to the float model that it was made from, on the same images and texts.

    Texts are the classes, or the captions of a dataset that has them. What is None was not measured.

    Args:
        cosine: Mean over images of the cosine between both embeddings.
        centered_cosine: The same after the float model's mean embedding is subtracted from both. CLIP's embeddings lie
            in a narrow cone, so that without it even unrelated images have a high cosine.
        text_cosine: Mean over texts of the cosine between both embeddings.
        same_class: How often both choose the same text.
        kl: Mean over images of KL(float || model) of the probabilities of texts, in nats.
        change: Leading figure of the model minus that of the float model, in points, paired by image.
        image_tower: Leading figure of the model's images with the float model's texts.
        text_tower: Leading figure of the float model's images with the model's texts.
        neighbors: Share of the ten nearest images in the float model that are the model's, too.
        rank_correlation: Mean over images of Spearman's correlation of the cosines with all other images.
        patch_cosine: Mean over patches of the cosine between both embeddings.
        heat_map: Share of the quarter of patches that a text lights up in the float model that it does in this one.
        bounds: The 95 % ends of those figures that are bare numbers, by name.
    """

    cosine: float
    centered_cosine: float
    text_cosine: float
    same_class: Interval
    kl: float
    change: Interval | None = None
    image_tower: Interval | None = None
    text_tower: Interval | None = None
    neighbors: Interval | None = None
    rank_correlation: float | None = None
    patch_cosine: float | None = None
    heat_map: Interval | None = None
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_INTERVALS = ("same_class", "change", "image_tower", "text_tower", "neighbors", "heat_map")


@dataclass(frozen=True)
class Metrics:
    """Figures of a model on a dataset.

    Args:
        dataset: Name of the dataset.
        count: Number of images, without those that were skipped.
        figures: Some of `FIGURES`, in percent: for classes `top1`, `top5`, `mean_recall` and `calibration_error`, for
            tags `mean_average_precision`, for captions recalls both ways.
        fidelity: Comparison with the float model, if there was one.
        seconds: Time that both towers and the decoding took.
        skipped: Why an image does not decode and was left out, one sentence each.
    """

    dataset: str
    count: int
    figures: Mapping[str, Interval]
    fidelity: Fidelity | None
    seconds: float
    skipped: tuple[str, ...] = ()

    @property
    def leading(self) -> str:
        """Name of the figure that the dataset is judged by."""
        return next(name for name in LEADING if name in self.figures)

    @property
    def top1(self) -> Interval:
        """How often the true class has the highest score. Raises DataError for a dataset without classes."""
        return self._figure("top1")

    @property
    def top5(self) -> Interval:
        """How often the true class is among the five highest scores. Raises DataError as `top1` does."""
        return self._figure("top5")

    def _figure(self, name: str) -> Interval:
        if name not in self.figures:
            raise DataError(
                f"{self.dataset} has no {FIGURES[name]}, since its images do not have one class each; use one of "
                f"{', '.join(self.figures)}."
            )
        return self.figures[name]

    def __str__(self) -> str:
        figures = ", ".join(f"{FIGURES[name]} {interval}" for name, interval in self.figures.items())
        lines = [f"{self.dataset}, {self.count} images: {figures}"]
        if (f := self.fidelity) is not None:
            lines.append(
                f"against float: cosine {f.cosine:.4f}, centered {f.centered_cosine:.4f}, text {f.text_cosine:.4f}, "
                f"same class {f.same_class}, KL {f.kl:.4f} nats"
            )
        return "\n".join([*lines, *skipped_summary(self.skipped)])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form, which `from_dict` reads back; figures stand beside the other fields."""
        figures = {name: asdict(interval) for name, interval in self.figures.items()}
        fidelity = None if self.fidelity is None else asdict(self.fidelity)
        if fidelity is not None:
            fidelity["bounds"] = {name: list(ends) for name, ends in fidelity["bounds"].items()}
        return {
            "dataset": self.dataset,
            "count": self.count,
            **figures,
            "fidelity": fidelity,
            "seconds": self.seconds,
            "skipped": list(self.skipped),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Metrics:
        """Read what `to_dict` wrote.

        Raises:
            DataError: The dictionary is anything else.
        """
        check(data, KIND, "The metrics", DataError, "evaluate the model again")
        figures = {name: Interval(**data[name]) for name in FIGURES if name in data}
        if not any(name in figures for name in LEADING):
            raise DataError(
                f"The metrics hold none of the figures {', '.join(LEADING)}, expected one; evaluate the model again."
            )
        fidelity = None if data["fidelity"] is None else _fidelity(data["fidelity"])
        return Metrics(
            data["dataset"], data["count"], figures, fidelity, data["seconds"], tuple(data.get("skipped", ()))
        )


def _fidelity(data: dict[str, Any]) -> Fidelity:
    intervals = {name: Interval(**data[name]) for name in _INTERVALS if data.get(name) is not None}
    bounds = {name: (low, high) for name, (low, high) in data.get("bounds", {}).items()}
    return Fidelity(**{**data, **intervals, "bounds": bounds})


_PERCENT = record_kind(Interval, {"float": Number(-100 - 1e-6, 100 + 1e-6)})
_COSINE = Number(-1.01, 1.01)
_FIDELITY = record_kind(
    Fidelity,
    {
        "float": _COSINE,
        "kl": Number(-1, 1e6),
        "same_class": _PERCENT,
        **{name: Maybe(_PERCENT) for name in _INTERVALS[1:]},
        "bounds": Table(List(Number(-1.01, 1e6), 2, 2)),
    },
)
KIND = Record(
    {"dataset": Text(), "count": Whole(1, 1 << 40), "fidelity": Maybe(_FIDELITY), "seconds": Number(0, 1e9)},
    {"skipped": List(Text()), **dict.fromkeys(FIGURES, _PERCENT)},
    closed=True,
)
"""What the dictionary of `Metrics.to_dict` holds."""
