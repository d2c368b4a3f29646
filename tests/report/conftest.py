"""A small quantized model with all that a report needs, and the report about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import d4c
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.models.clip import CLIP
from d4c.models.tower_config import ViTConfig
from d4c.quantization import quantize as quantize_module
from d4c.report.gather import ReportData, gather
from d4c.report.subject import Subject, open_subject

HOSTILE = "<script>alert('class')</script>"
"""The name of a class that must reach the page as text."""


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model, its images and its artifact are, in folders of these names."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def small(root: Path) -> CLIP:
    """The first two blocks of the embedded vision transformer, and one of its text tower."""
    clip = d4c.load("demo-vit")
    vision = clip.config.image
    assert isinstance(vision, ViTConfig)
    clip.image.blocks, clip.text.blocks = clip.image.blocks[:2], clip.text.blocks[:1]
    clip.config = replace(clip.config, image=replace(vision, layers=2), text=replace(clip.config.text, layers=1))
    clip.name = "small"
    clip.save_pretrained(root / "model")
    return clip


@pytest.fixture(scope="session")
def subject(small: CLIP, root: Path) -> Subject:
    """The model at W4A8, calibrated on few images and prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_module, "PROMPTS", 40)
        images = d4c.synthesize(small, "d4c", preset="quick", images=4, iterations=2, progress=None)
        images.save(root / "images")
        d4c.quantize(small, images, "W4A8", reconstruction="gptq", progress=None).save_pretrained(root / "artifact")
    return open_subject(root / "artifact", root / "images")


@pytest.fixture(scope="session")
def few() -> Dataset:
    """Some embedded pictures of 12 classes, one of them with a name that must stay text."""
    whole = demo_dataset()
    return replace(whole, classes=(HOSTILE, *whole.classes[1:12]), labels=whole.labels[:24] % 12)


@pytest.fixture(scope="session")
def report(small: CLIP, subject: Subject, few: Dataset) -> ReportData:
    return gather([subject], small, few)
