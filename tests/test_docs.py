"""The documentation names what the code has."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

import d4c
from d4c.quantization.config import Reconstruction
from d4c.quantization.formats.scheme import Track
from d4c.quantization.placement import default_overrides

DOCS = Path(__file__).parent.parent / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="a source distribution has no documentation")


@pytest.mark.parametrize("model", ["demo-vit", "demo-rn"])
@pytest.mark.parametrize("track", get_args(Track))
def test_every_exception_of_a_track_is_on_the_page(track: Track, model: str) -> None:
    page = (DOCS / "quantization.md").read_text(encoding="utf-8")
    assert [pattern for pattern in default_overrides(d4c.load(model), track) if f"`{pattern}`" not in page] == []


def test_every_kind_of_reconstruction_is_on_the_page() -> None:
    page = (DOCS / "quantization.md").read_text(encoding="utf-8")
    assert [kind for kind in get_args(Reconstruction) if f"`{kind}`" not in page] == []
