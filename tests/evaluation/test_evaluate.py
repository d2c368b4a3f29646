"""`evaluate` and its parts agree, on the embedded models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

import d4c
from d4c import DataError, SettingError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import embed
from d4c.evaluation.evaluate import evaluate, refuse_other_model
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics.record import Metrics
from d4c.evaluation.score import score
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.models.resolution import with_image_size
from d4c.progress import WHOLE


@pytest.fixture(scope="module")
def few() -> Dataset:
    """The first 60 emoji with only their own names as classes."""
    demo = load_dataset("demo")
    return replace(demo, classes=demo.classes[:60], labels=demo.labels[:60])


@pytest.fixture(scope="module")
def noisy() -> CLIP:
    """The same model with its weights on a coarse grid."""
    model = d4c.load("demo-vit")
    for weight in model.image.parameters():
        step = weight.data.abs().max() / 31
        weight.data = (weight.data / step).round() * step
    return model


def without_time(metrics: Metrics) -> Metrics:
    return replace(metrics, seconds=0.0)


def test_evaluating_is_embedding_and_scoring(demo_vit: CLIP, noisy: CLIP, few: Dataset) -> None:
    part = few.subset(40)
    reference = embed(demo_vit, part)
    whole = evaluate(noisy, few, reference=demo_vit, limit=40)
    assert without_time(whole) == without_time(score(embed(noisy, part), part, reference=reference))
    assert without_time(whole) == without_time(evaluate(noisy, part, reference=reference))
    assert whole.fidelity is not None
    assert 0 < whole.fidelity.centered_cosine < whole.fidelity.cosine < 1


def test_accuracy_is_what_a_loop_over_images_counts(demo_vit: CLIP, few: Dataset) -> None:
    side = embed(demo_vit, few)
    places = [
        (-row).argsort(stable=True).tolist().index(int(label))
        for row, label in zip(side.scores(), few.labels, strict=True)
    ]
    metrics = score(side, few)
    assert metrics.top1.value == pytest.approx(100 * sum(p == 0 for p in places) / 60)
    assert metrics.top5.value == pytest.approx(100 * sum(p < 5 for p in places) / 60)
    assert metrics.fidelity is None


def test_progress_counts_the_prompts_and_images_of_both_models(demo_vit: CLIP, few: Dataset) -> None:
    calls: list[tuple[int, int]] = []
    evaluate(demo_vit, few, reference=demo_vit, limit=5, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, WHOLE)
    assert calls[-1] == (WHOLE, WHOLE)
    assert calls == sorted(calls)
    assert (WHOLE // 2, WHOLE) in calls


def test_inputs_go_to_the_device_of_the_model(demo_vit: CLIP) -> None:
    seen = set()

    class Elsewhere:
        """The same model, claiming to live on torch's device without storage."""

        device = torch.device("meta")
        logit_scale, image_size = demo_vit.logit_scale, demo_vit.image_size
        preprocess, tokenize = demo_vit.preprocess, demo_vit.tokenize

        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.add(f"image {pixels.device}")
            return torch.ones(len(pixels), 2)

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            seen.add(f"text {tokens.device}")
            return torch.ones(len(tokens), 2)

    evaluate(Elsewhere(), "demo", limit=2)
    assert seen == {"image meta", "text meta"}


def damaged(data: Dataset, *indices: int) -> Dataset:
    return replace(data, read=lambda i: b"broken" if i in indices else data.read(i))


def test_a_damaged_image_is_left_out_and_named(demo_vit: CLIP, few: Dataset) -> None:
    part = replace(few, classes=few.classes[:8], labels=few.labels[:8])
    rest = replace(part, labels=np.delete(part.labels, 3), read=lambda i: part.read(i + (i >= 3)))
    metrics, expected = (evaluate(demo_vit, data, reference=demo_vit) for data in (damaged(part, 3), rest))
    assert (metrics.count, metrics.top1, metrics.fidelity) == (7, expected.top1, expected.fidelity)
    assert len(metrics.skipped) == 1
    assert metrics.skipped[0].startswith("demo: row 3 does not decode as an image (it is of none of the formats JPEG")
    assert "1 picture was skipped:" in str(metrics)


def test_strict_makes_a_damaged_image_an_error(demo_vit: CLIP, few: Dataset) -> None:
    part = replace(few, classes=few.classes[:8], labels=few.labels[:8])
    with pytest.raises(DataError, match="row 3 does not decode"):
        evaluate(demo_vit, damaged(part, 3), strict=True)


@pytest.mark.parametrize(
    ("indices", "what"), [((0, 2), "the class 'grinning face' of demo"), (range(4), "demo")], ids=["class", "all"]
)
def test_a_class_of_which_nothing_is_left_is_an_error(
    demo_vit: CLIP, few: Dataset, indices: Sequence[int], what: str
) -> None:
    part = replace(few, classes=few.classes[:2], labels=np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match=rf"None of the {len(indices)} pictures in {what} can be used \(demo: row 0"):
        evaluate(demo_vit, damaged(part, *indices))


def test_embeddings_of_another_dataset_are_not_scored(demo_vit: CLIP, few: Dataset) -> None:
    with pytest.raises(DataError, match="embed the model on this dataset"):
        score(embed(demo_vit, few.subset(3)), few.subset(4))


def test_a_name_is_no_model(few: Dataset) -> None:
    with pytest.raises(SettingError, match=r"The model is the name 'demo-vit', .* pass what d4c\.load"):
        evaluate("demo-vit", few)  # type: ignore[arg-type]


def test_only_the_weights_that_were_quantized_are_a_reference(demo_vit: CLIP, noisy: CLIP, few: Dataset) -> None:
    class Made:
        name, origin = "made", model_hash(demo_vit)

    refuse_other_model(Made(), demo_vit)
    refuse_other_model(Made(), copy.deepcopy(demo_vit).half())
    refuse_other_model(Made(), embed(noisy, few.subset(1)))
    refuse_other_model(noisy, demo_vit)
    with pytest.raises(SettingError, match=r"The reference 'demo-vit' does not have the weights that 'made' was made"):
        refuse_other_model(Made(), noisy)


def test_a_reference_of_another_image_size_names_the_option(demo_vit: CLIP) -> None:
    resized = with_image_size(copy.deepcopy(demo_vit), 96)

    class Made:
        name, origin = "made", model_hash(resized)
        towers, image_size = ("image", "text"), 96

    refuse_other_model(Made(), resized)
    with pytest.raises(SettingError, match=r"name that float model with image_size=96 \(--image-size 96\), or leave"):
        refuse_other_model(Made(), demo_vit)
