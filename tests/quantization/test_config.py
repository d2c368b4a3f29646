"""The record of quantization settings: what it refuses, and what follows from the track."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from d4c.errors import SettingError
from d4c.quantization.config import PRESETS, QuantizeConfig, quantize_config
from d4c.quantization.formats.scheme import Scheme, Track
from d4c.quantization.rounding.config import PAPER, ReconstructionConfig
from d4c.settings.presets import Preset

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": ({"scheme": "W4"}, "'W4' is not of the form W4A8"),
    "one bit": ({"scheme": "W1A8"}, "weight bits"),
    "track": ({"track": "fast"}, "track is 'fast', expected 'deployable' or 'paper'"),
    "ranges": ({"ranges": "max"}, "ranges is 'max', expected 'mse' or 'minmax' or 'percentile'"),
    "reconstruction": ({"reconstruction": "magic"}, "expected 'block' or .* or None"),
    "no steps": ({"iterations": 0}, "iterations is 0, expected null or a whole number from 1 to 1000000"),
    "half a step": ({"iterations": 1.5}, "iterations is 1.5, expected an integer or None"),
    "no samples": ({"batch_size": 0}, "batch_size is 0, expected null or a whole number from 1 to 1000000"),
    "importance": ({"importance": "all"}, "importance is 'all'"),
    "override": ({"overrides": {"image.*": "W9A9"}}, "weight bits"),
    "target": ({"target_bits": float("nan")}, "target_bits is nan, expected a finite number"),
    "two targets": ({"target_bits": 5.0, "target_bytes": 9}, "exclude each other"),
    "a number as switch": ({"full_range": 1}, "full_range is 1, expected True or False"),
    "integer kernels as published": ({"full_range": True, "track": "paper"}, "integer kernels"),
    "tower": ({"towers": ("audio",)}, "expected a list of 'image' or 'text'"),
    "no tower": ({"towers": ()}, "towers is empty"),
    "seed": ({"seed": "0"}, "seed is '0', expected an integer"),
}


@pytest.mark.parametrize(("settings", "about"), REFUSED.values(), ids=REFUSED)
def test_a_setting_that_no_quantization_can_have_is_refused_in_one_sentence(
    settings: dict[str, Any], about: str
) -> None:
    with pytest.raises(SettingError, match=about) as caught:
        QuantizeConfig(**settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_dictionary_of_a_record_gives_it_back(preset: Preset) -> None:
    config = replace(PRESETS[preset], overrides={"a": "W8A8", "b": "W4A4"}, towers=("text",), target_bits=5.0)
    assert QuantizeConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_a_scheme_may_be_a_record_or_text_in_any_case() -> None:
    assert QuantizeConfig(scheme=Scheme(4, 8)).scheme == QuantizeConfig(scheme=" w4a8").scheme == "W4A8"  # type: ignore[arg-type]


def test_what_the_track_decides_is_filled_in() -> None:
    ours, paper = (QuantizeConfig(scheme="W4A4", track=track).resolved() for track in get_args(Track))
    assert (ours.reconstruction, ours.iterations, ours.soften, ours.wide_class_token) == ("block", 500, True, True)
    assert (paper.reconstruction, paper.iterations, paper.soften, paper.wide_class_token) == (
        "published",
        20000,
        False,
        False,
    )
    assert not QuantizeConfig(towers=("text",)).resolved().wide_class_token
    assert ours.learning() == ReconstructionConfig()
    assert paper.learning() == PAPER


@pytest.mark.parametrize(
    ("scheme", "track", "kind"),
    [(scheme, "deployable", "gptq") for scheme in ("W8A8", "w8a8", "W4A8")]
    + [(scheme, "deployable", "block") for scheme in ("W6A6", "W4A4", "W8A4")]
    + [("W8A8", "paper", "published")],
)
def test_blocks_are_learned_where_that_is_better(scheme: str, track: Track, kind: str) -> None:
    assert QuantizeConfig(scheme=scheme, track=track).resolved().reconstruction == kind
    assert QuantizeConfig(scheme=scheme, track=track, reconstruction="layer").resolved().reconstruction == "layer"


@pytest.mark.parametrize("kind", ["gptq", "none"])
def test_settings_that_a_reconstruction_does_not_read_make_no_difference(kind: Any) -> None:
    full = QuantizeConfig(reconstruction=kind, iterations=7, batch_size=3, importance="embedding")
    assert full.resolved() == QuantizeConfig(reconstruction=kind).resolved()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resolved_record_is_resolved(preset: Preset) -> None:
    config = PRESETS[preset].resolved()
    assert config.resolved() == config
    assert config.reconstruction is not None


def test_fewer_steps_move_as_far() -> None:
    learning = QuantizeConfig(iterations=125, batch_size=8).learning()
    whole = ReconstructionConfig()
    assert (learning.iterations, learning.batch_size) == (125, 8)
    assert learning.rounding_lr == pytest.approx(2 * whole.rounding_lr)


def test_preset_paper_is_the_published_track() -> None:
    assert quantize_config(preset="paper").resolved() == QuantizeConfig(track="paper").resolved()
    assert quantize_config(preset="quick").reconstruction == "gptq"
    assert quantize_config() == QuantizeConfig()


def test_settings_go_over_a_preset_or_a_record_and_none_leaves_them() -> None:
    record = QuantizeConfig(scheme="W6A6", seed=3)
    assert quantize_config(record, settings={"seed": None, "ranges": "minmax"}) == replace(record, ranges="minmax")
    assert quantize_config("W3A3", "quick", {"iterations": 5}) == replace(PRESETS["quick"], scheme="W3A3", iterations=5)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingError, match="no quantization setting 'steps'; use one of scheme, track"):
        quantize_config(settings={"steps": 3})
    with pytest.raises(SettingError, match="preset 'fast' is unknown; use one of quick, default, paper"):
        quantize_config(preset="fast")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="'quick' is given beside a QuantizeConfig"):
        quantize_config(QuantizeConfig(), preset="quick")


@pytest.mark.parametrize(
    "settings",
    [
        *({"seed": seed} for seed in (-1, 1.5, 2**63, 10**400, True, "0")),
        *({"iterations": steps} for steps in (10**12, -1, float("inf"))),
        *({"target_bytes": size} for size in (10**400, -5)),
        *({"target_bits": bits} for bits in (float("nan"), -1, 10**400)),
        {"overrides": [1]},
        {"overrides": {"(.*.*)*x": "W4A8"}},
        {"overrides": {5: "W4A8"}},
    ],
    ids=lambda settings: str(settings)[:40],
)
def test_numbers_beyond_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        QuantizeConfig(**settings)
    assert len(str(caught.value)) < 300
