"""Patterns over names of layers are shell wildcards; nothing that could run for ever passes."""

from __future__ import annotations

import time

import pytest

from d4c.errors import SettingError
from d4c.quantization.layer_patterns import alternatives, matches, matches_any

LAYER = "image.blocks.10.mlp.fc1"


@pytest.mark.parametrize(
    "pattern",
    [LAYER, "*", "image.*", "*.fc1", "image.blocks.??.mlp.fc[12]", "{text,image}.blocks.{1,10}.*", "image.*.1[!1].*"],
)
def test_what_matches(pattern: str) -> None:
    assert matches(pattern, LAYER)


@pytest.mark.parametrize("pattern", ["", "image", "blocks", "image.blocks.?.*", "{}", "IMAGE.*", "image.*.1[!0].*"])
def test_what_does_not_match(pattern: str) -> None:
    assert not matches(pattern, LAYER)
    assert not matches_any([pattern], LAYER)


@pytest.mark.parametrize(
    "pattern",
    [r"image\.blocks", "(.*.*)*x", "a|b", "a+", "{a,{b,c}}", "{a", "a}", "*" * 1001, "{0,1}" * 10, "\ud800", "a\n"],
)
def test_regular_expressions_and_giants_are_refused(pattern: str) -> None:
    with pytest.raises(SettingError) as caught:
        alternatives(pattern)
    assert str(caught.value).endswith(".")
    str(caught.value).encode()


def test_stars_do_not_backtrack() -> None:
    started = time.perf_counter()
    assert not matches("*a" * 400 + "x", "a" * 400)
    assert time.perf_counter() - started < 1
