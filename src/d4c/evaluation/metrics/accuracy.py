"""Zero-shot classification: top-1 and top-5, mean per-class recall, calibration error, mean average precision."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d4c.evaluation.metrics.intervals import Interval, Statistic, bootstrap, mean_of, wilson

BINS = 15
"""Bins of equal width over the confidence, as Guo et al. (2017) use."""


def classification_figures(scores: Tensor, labels: Tensor, logit_scale: float) -> dict[str, Interval]:
    """Compute the figures of images that have one class each, in percent.

    Args:
        scores: Cosines [N, C] of images with classes.
        labels: True classes, int64 [N].
        logit_scale: Factor from cosine to logit.

    Returns:
        `top1` and `top5` with Wilson intervals; `mean_recall`, the mean over the classes that occur of the share of
        their images that is right, and `calibration_error` with bootstrap intervals.
    """
    count = len(labels)
    ranks = label_ranks(scores, labels)
    hits = (ranks < 1).numpy()
    statistics = {
        "mean_recall": mean_recall(hits, labels.numpy()),
        "calibration_error": calibration_error(hits, confidences(scores, logit_scale)),
    }
    return {
        "top1": wilson(int(hits.sum()), count),
        "top5": wilson(int((ranks < 5).sum()), count),
        **bootstrap(statistics, count),
    }


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the classes that rank above the true one.

    Of equal scores the smaller class index ranks higher, so that rank 0 means that argmax is right.

    Args:
        scores: Scores [N, C].
        labels: True classes, int64 [N].

    Returns:
        Ranks from 0, int64 [N].
    """
    label_scores = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > label_scores) | ((scores == label_scores) & earlier)).sum(1)


def confidences(scores: Tensor, logit_scale: float) -> NDArray[np.float64]:
    """Return the probability [N] of the class that each image is put into: the largest of softmax(s cos)."""
    return (logit_scale * scores.double()).softmax(-1).amax(-1).numpy()


def mean_recall(hits: NDArray[np.bool_], labels: NDArray[np.int64]) -> Statistic:
    """Return the mean over classes of the share of their images that is right, in percent, as a statistic.

    Each image weighs one over the size of its class. The sizes are those of all images: counted anew in each sample,
    classes of one image would never be wrong twice, and the interval would be too narrow.

    Args:
        hits: Whether each image is right [N].
        labels: True classes [N].
    """
    shares = 1 / np.bincount(labels)[labels]
    return mean_of(100 * hits * shares, shares)


def calibration_error(hits: NDArray[np.bool_], confidence: NDArray[np.float64]) -> Statistic:
    """Return the expected calibration error in percent, as a statistic (Guo et al. 2017).

    It is the sum over bins of confidence of (images in the bin / N) |share of hits - mean confidence|.

    Args:
        hits: Whether each image is right [N].
        confidence: Probability of the class it is put into [N].
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.zeros((len(hits), BINS))
    gaps[np.arange(len(hits)), bins] = hits - confidence
    return lambda weights: 100 * np.abs(weights @ gaps).sum(1) / weights.sum(1)


def tag_figures(scores: Tensor, tags: NDArray[np.bool_]) -> dict[str, Interval]:
    """Compute `mean_average_precision` in percent, for images with any number of classes.

    Args:
        scores: Cosines [N, C] of images with classes.
        tags: Whether each image has each class [N, C].
    """
    return bootstrap({"mean_average_precision": mean_average_precision(scores.numpy(), tags)}, len(tags))


def mean_average_precision(scores: NDArray[np.floating], tags: NDArray[np.bool_]) -> Statistic:
    """Return the mean over classes of the average precision, in percent, as a statistic.

    The average precision of a class is the mean over its images of the precision among all images that score at least
    as high; of equal scores the earlier image comes first. A class without images counts as 0, as CLIP_benchmark does.
    """
    orders = np.argsort(-scores, axis=0, kind="stable")

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        precisions = np.zeros(len(weights))
        for order, of_class in zip(orders.T, tags.T, strict=True):
            # Only images of the class add something, and an image drawn twice stands there twice.
            ranked, true = weights[:, order], of_class[order]
            seen = np.cumsum(ranked, axis=1)[:, true]
            own = ranked[:, true]
            right = np.cumsum(own, axis=1)
            precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
            precisions += (own * precision).sum(1) / np.maximum(own.sum(1), 1)
        return 100 * precisions / tags.shape[1]

    return statistic
