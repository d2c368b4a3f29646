"""The presets, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from d4c.errors import SettingError
from d4c.synthesis.config import PRESETS, SynthesisConfig, synthesis_config


def test_preset_paper_is_what_the_authors_published() -> None:
    c = PRESETS["paper"]
    assert (c.images, c.iterations, c.lr, c.temperature, c.tv_weight, c.group_size) == (128, 3000, 0.01, 0.1, 0.1, 16)
    assert (c.statistics, c.pse_form) == ("batch", "published")
    assert (c.targets, c.start, c.optimizer, c.precision) == ("random", "noise", "shared", "float32")
    assert (c.area_min, c.area_max, c.background_noise) == (0.4, 0.7, 0.1)
    assert (c.flip_p, c.rotation, c.scale, c.translate) == (0.5, 15, 0.05, 0.05)
    assert (c.brightness, c.contrast, c.saturation) == (0.4, 0.4, 0.4)
    assert (c.blur_p, c.erase_p, c.erase_side) == (0.3, 0.3, 0.2)


def test_overrides_of_none_leave_the_preset() -> None:
    assert synthesis_config("d4c", "paper", {"images": None, "lr": None}) == PRESETS["paper"]
    assert synthesis_config("pgsi", "paper", {"images": 3}) == SynthesisConfig(method="pgsi", images=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": 0}, "images is 0, expected from 1 to 1000000"),
        ({"images": 2.5}, "images is 2.5, expected an integer"),
        ({"iterations": True}, "iterations is True, expected an integer"),
        ({"lr": 0}, "lr is 0, expected more than 0"),
        ({"lr": float("nan")}, "lr is nan, expected a finite number"),
        ({"lr": "0.1"}, "lr is '0.1', expected a finite number"),
        ({"flip_p": 1.5}, "flip_p is 1.5, expected from 0 to 1"),
        ({"area_min": 0.8}, "area_min is 0.8, expected more than 0 and at most area_max"),
        ({"area_max": 1.0}, "area_max is 1.0, expected less than 1"),
        ({"targets": "all"}, "targets is 'all', expected 'random' or 'even'"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd', expected 'shared' or 'independent'"),
        ({"precision": "fp8"}, "precision is 'fp8', expected 'float32' or 'bf16'"),
        ({"batch": 24}, "batch is 24, expected whole groups, a multiple of group_size = 16"),
        ({"batch": "16"}, "batch is '16', expected an integer or None"),
        ({"statistics": "group"}, "statistics is 'group', expected 'batch' or 'set'"),
        ({"pse_form": "paper"}, "pse_form is 'paper', expected 'published' or 'psaq'"),
        ({"tv_target": 0}, "tv_target is 0, expected more than 0"),
        ({"jitter": 2}, "jitter is 2, expected from 0 to 1"),
        (
            {"method": "bns", "statistics": "set", "batch": 16},
            "batch is 16, expected None since 'bns' compares the whole set",
        ),
        ({"momentum": 0.9}, "There is no synthesis setting 'momentum'"),
        (
            {"method": "gan"},
            "method 'gan' is unknown; use one of d4c, pgsi, pgsi+scg, pgsi+pae, bns, pse, noise, pink, leaves",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_setting_is_named_with_what_was_expected(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        synthesis_config(settings.pop("method", "d4c"), "quick", settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingError, match="use one of quick, default, paper"):
        synthesis_config("d4c", "fast", {})  # type: ignore[arg-type]
