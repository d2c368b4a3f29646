"""Recalls against a literal loop."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from d4c.evaluation.metrics.retrieval import BEST, retrieval_figures


@given(st.integers(0, 2**31))
def test_recalls_are_what_a_loop_over_queries_counts(seed: int) -> None:
    random = np.random.default_rng(seed)
    owners = np.sort(np.concatenate([np.arange(12), random.integers(12, size=14)]))
    image = F.normalize(torch.from_numpy(random.normal(size=(12, 4))), dim=-1)
    text = F.normalize(image[owners] + torch.from_numpy(random.normal(size=(26, 4))), dim=-1)
    figures = retrieval_figures(image, text, owners)
    scores = (image @ text.T).numpy()
    for k in BEST:
        texts = [any(owners[t] == i for t in np.argsort(-scores[i])[:k]) for i in range(12)]
        images = [owners[t] in np.argsort(-scores[:, t])[:k] for t in range(26)]
        assert round(figures[f"text_recall{k}"].value, 6) == round(100 * float(np.mean(texts)), 6)
        assert round(figures[f"image_recall{k}"].value, 6) == round(100 * float(np.mean(images)), 6)


def test_equal_scores_go_to_who_comes_first() -> None:
    same = torch.ones(3, 1)
    figures = retrieval_figures(same, torch.ones(3, 1), np.arange(3))
    assert round(figures["text_recall1"].value, 6) == round(figures["image_recall1"].value, 6) == round(100 / 3, 6)
