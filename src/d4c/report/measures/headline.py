"""The headline: how much accuracy is kept, how much smaller and faster the model is, and what data that took."""

from __future__ import annotations

from dataclasses import dataclass

from d4c.evaluation.metrics.record import Metrics
from d4c.report.measures.repeat import is_data_free
from d4c.report.measures.speed import Speed
from d4c.report.missing import Missing
from d4c.report.subject import Subject


@dataclass(frozen=True)
class Headline:
    """What a reader should know first about one quantized model.

    Attributes:
        dataset: What accuracy was measured on; None if it was not measured.
        float_metrics: Accuracy of the float model.
        metrics: Accuracy of the quantized model.
        float_bytes: Size of the float model in float32.
        bytes: Size of the quantized weights.
        bits: Mean bits per weight.
        times_faster: How many times as fast the image tower is at batch 1; None if that was not measured.
        data_free: Whether it was calibrated with images that were made from nothing but the model.
        images: Number of calibration images.
        method: How they were made.
    """

    dataset: str | None
    float_metrics: Metrics | None
    metrics: Metrics | None
    float_bytes: int
    bytes: int
    bits: float
    times_faster: float | None
    data_free: bool
    images: int
    method: str

    @property
    def kept(self) -> float | None:
        """The leading figure as a percentage of the float model's; None if that is not known or zero."""
        before, after = leading(self.float_metrics), leading(self.metrics)
        return 100 * after / before if before and after is not None else None

    @property
    def times_smaller(self) -> float:
        """Bytes of the float model over those of the quantized one."""
        return self.float_bytes / self.bytes


def leading(metrics: Metrics | None) -> float | None:
    """The figure that a dataset is judged by, in percent; None where nothing was measured."""
    return None if metrics is None else metrics.figures[metrics.leading].value


def headline(
    subject: Subject, float_bytes: int, metrics: tuple[Metrics, Metrics] | None, speed: Speed | Missing
) -> Headline:
    """Sum up a model.

    Args:
        subject: The quantized model.
        float_bytes: Size of the float model in float32.
        metrics: Accuracy of the float model and of the quantized one, if it was measured.
        speed: Latency, if it was measured.
    """
    recipe = subject.recipe
    return Headline(
        dataset=None if metrics is None else metrics[0].dataset,
        float_metrics=None if metrics is None else metrics[0],
        metrics=None if metrics is None else metrics[1],
        float_bytes=float_bytes,
        bytes=subject.size,
        bits=subject.model.effective_bits(),
        times_faster=None if isinstance(speed, Missing) else speed.towers[0].times,
        data_free=is_data_free(recipe),
        images=int(recipe["images"]),
        method=str(recipe["calibration"].get("method", "given images")),
    )


def run_metrics(subject: Subject) -> tuple[Metrics, Metrics] | None:
    """Accuracy that the run of a model measured on its whole dataset: of the float model, and of this one."""
    scheme, method = subject.recipe["scheme"], subject.recipe["calibration"].get("method")
    floats = [row.metrics for row in subject.rows if row.scheme is None]
    own = [row.metrics for row in subject.rows if (row.scheme, row.name) == (scheme, method)]
    return (floats[0], own[0]) if floats and own else None
