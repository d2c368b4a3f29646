"""What quantization costs with both towers quantized and with each alone, from one quantized model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.problems import Problem
from d4c.evaluation.embed import Embeddings, text_embeddings
from d4c.evaluation.score import score
from d4c.models.clip import CLIP

TOWERS = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}
"""What is quantized, by its name in a row."""


@torch.no_grad()
def scores(problem: Problem, model: CLIP) -> dict[str, Any]:
    """Top-1 % with both towers quantized and with each alone, beside that of float, and the mean cosine of each."""
    reference, dataset = problem.reference, problem.dataset
    image, text = problem.images(model), text_embeddings(model, dataset, problem.places.batch)

    def top1(towers: tuple[str, ...]) -> float:
        embeddings: Embeddings = reference
        embeddings = replace(embeddings, image=image) if "image" in towers else embeddings
        embeddings = replace(embeddings, text=text) if "text" in towers else embeddings
        return score(embeddings, dataset).top1.value

    return {
        "top1": {name: top1(towers) for name, towers in TOWERS.items()},
        "float_top1": top1(()),
        "image_cosine": mean_cosine(image, reference.image),
        "text_cosine": mean_cosine(text, reference.text),
    }


def mean_cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(torch.as_tensor(a), torch.as_tensor(b), dim=-1).mean())
