"""What the tests of inspections share: small sets of images, and a UMAP that compiles nothing."""

from __future__ import annotations

import os

import pytest

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP

# Compiling UMAP takes 20 seconds; interpreting it for few points takes 2. Numba reads this when it is imported.
os.environ["NUMBA_DISABLE_JIT"] = "1"


@pytest.fixture(scope="session")
def leaves(demo_vit: CLIP) -> CalibrationSet:
    """Dead leaves for the embedded transformer."""
    return d4c.synthesize(demo_vit, "leaves", images=8, seed=5)


@pytest.fixture(scope="session")
def prompted(demo_vit: CLIP) -> CalibrationSet:
    """Images with prompts, some steps on the way to them."""
    return d4c.synthesize(
        demo_vit, "pgsi", "quick", images=6, iterations=3, prompts=["dog", "cat", "tree", "car", "ship", "apple"]
    )
