"""Writes results in the form of CLIP_benchmark, whose `clip_benchmark build` makes a table of many."""

from __future__ import annotations

from typing import Any

from d4c.evaluation.metrics.record import Metrics

NAMES = {
    "top1": "acc1",
    "top5": "acc5",
    "mean_recall": "mean_per_class_recall",
    "mean_average_precision": "mean_average_precision",
    **{f"{kind}_recall{k}": f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in (1, 5, 10)},
}
"""What CLIP_benchmark calls the figures that it has, too; there they are shares of 1."""


def clip_benchmark_record(metrics: Metrics, model: str, pretrained: str, language: str = "en") -> dict[str, Any]:
    """Return metrics as `clip_benchmark eval` writes them.

    Args:
        metrics: The result of an evaluation.
        model: Name of the model.
        pretrained: Name of its weights; for a quantized model the scheme.
        language: Language of class names or captions.
    """
    task = "zeroshot_retrieval" if metrics.leading == "text_recall1" else "zeroshot_classification"
    figures = {NAMES[name]: figure.value / 100 for name, figure in metrics.figures.items() if name in NAMES}
    return {
        "dataset": metrics.dataset,
        "model": model,
        "pretrained": pretrained,
        "task": task,
        "metrics": figures,
        "language": language,
    }
