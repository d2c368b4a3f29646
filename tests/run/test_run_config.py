"""The record of a run: what it refuses, and files that hold it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from d4c.errors import SettingError
from d4c.quantization.config import QuantizeConfig, quantize_config
from d4c.run.config import RunConfig, merged, read_toml, run_config
from d4c.settings.presets import Preset
from d4c.synthesis.config import synthesis_config

PRESETS: tuple[Preset, ...] = get_args(Preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_both_halves(preset: Preset) -> None:
    config = run_config({"model": "demo-vit", "preset": preset})
    assert config.synthesis == synthesis_config(preset=preset)
    assert config.quantization == quantize_config(preset=preset)


def test_preset_paper_quantizes_as_published() -> None:
    assert run_config({"model": "m", "preset": "paper"}).quantization.resolved().track == "paper"
    assert run_config({"model": "m"}) == RunConfig("m")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_written_is_read_back(preset: Preset, tmp_path: Path) -> None:
    settings = {
        "preset": preset,
        "model": 'a \u00e9"\\\n\U0001f600 file',
        "pretrained": "openai",
        "activation": "gelu",
        "heads": [12, 8],
        "more_schemes": ["W4A4"],
        "synthesis": {"method": "pgsi+scg", "batch": 32},
        "quantization": {"overrides": {"image.?locks.*": "W8A8", "a": "W6A6"}, "towers": ["text"], "target_bits": 5.5},
    }
    config = run_config(settings)
    (tmp_path / "run.toml").write_text(config.to_toml(), encoding="utf-8")
    again = run_config(read_toml(tmp_path / "run.toml"))
    assert again == config
    assert list(again.quantization.overrides) == list(config.quantization.overrides)
    assert run_config(json.loads(json.dumps(config.to_dict()))) == config


def test_options_go_over_a_file_which_goes_over_a_preset() -> None:
    file = {"model": "a", "preset": "quick", "quantization": {"scheme": "W6A6", "seed": 1}}
    options: dict[str, Any] = {"model": None, "device": "cpu", "quantization": {"scheme": "W4A4", "track": None}}
    config = run_config(merged(file, options))
    assert (config.model, config.device, config.quantization.scheme, config.quantization.seed) == (
        "a",
        "cpu",
        "W4A4",
        1,
    )
    assert config.quantization.reconstruction == quantize_config(preset="quick").reconstruction


def test_schemes_stand_in_order() -> None:
    config = RunConfig("m", more_schemes=("w4a4",), quantization=QuantizeConfig(scheme="W8A8"))
    assert config.schemes == ("W8A8", "W4A4")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"dataset": "demo"}, "no model"),
    "unknown name": ({"modell": "demo-vit"}, "no run setting 'modell'; use one of preset, model"),
    "unknown name of a half": ({"synthesis": {"steps": 3}}, "no synthesis setting 'steps'"),
    "a half that is not a table": ({"quantization": "W4A8"}, "expected a table of settings"),
    "preset": ({"preset": "slow"}, "preset 'slow' is unknown; use one of quick, default, paper"),
    "activation": ({"activation": "relu"}, "activation is 'relu', expected 'quick_gelu' or 'gelu'"),
    "heads": ({"heads": "12"}, "heads is '12', expected a list of 2 values"),
    "no heads": ({"heads": [0, 8]}, "heads"),
    "a picture without pixels": ({"image_size": 0}, "image_size is 0"),
    "one of two heads": ({"heads": [12]}, r"heads is \(12,\), expected a list of 2 values, each an integer"),
    "device": ({"device": 0}, "device is 0, expected a string"),
    "scheme": ({"more_schemes": ["W4"]}, "'W4' is not of the form"),
    "a scheme twice": ({"more_schemes": ["W4A8"]}, "W4A8 is given twice"),
    "text for a list": ({"more_schemes": "W4A8"}, "expected a list of a string"),
    "integer kernels as published": ({"preset": "paper", "quantization": {"full_range": True}}, "integer kernels"),
}


def test_options_do_not_hide_what_a_file_has_in_the_place_of_a_table() -> None:
    merged_settings = merged({"model": "demo-vit", "synthesis": 3}, {"synthesis": {"images": None}})
    with pytest.raises(SettingError, match="synthesis is 3, expected a table"):
        run_config(merged_settings)


@pytest.mark.parametrize(("settings", "about"), REFUSED.values(), ids=REFUSED)
def test_settings_that_are_refused(settings: dict[str, Any], about: str) -> None:
    given = settings if "no model" in about else {"model": "demo-vit", **settings}
    with pytest.raises(SettingError, match=about) as caught:
        run_config(given)
    assert "\n" not in str(caught.value)


DEEP = b".".join([b"a"] * 30_000)
"""A key that tomllib reads for minutes."""


@pytest.mark.parametrize(
    "content",
    [
        b"model =",
        b"\xff",
        DEEP + b" = 1",
        b"[" + DEEP + b"]",
        b"x = {" + DEEP + b" = 1}",
        DEEP.replace(b"a", b'"a"') + b" = 1",
    ],
    ids=["cut", "not UTF-8", "deep key", "deep table", "deep inline table", "deep quoted key"],
)
def test_a_file_that_is_not_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(SettingError, match=r"is not TOML .* as --dry-run prints it"):
        read_toml(tmp_path / "run.toml")
    with pytest.raises(SettingError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")


def test_dots_in_strings_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        f'prompts = ["{"a. " * 300}", \'{"b." * 300}\', "\\"{"c." * 300}"]', encoding="utf-8"
    )
    assert len(read_toml(tmp_path / "run.toml")["prompts"]) == 3


def test_nothing_of_a_record_is_lost_in_toml() -> None:
    config = RunConfig("m")
    data = tomllib.loads(config.to_toml())
    plain = {name: value for name, value in config.to_dict().items() if value is not None}
    assert data.keys() == plain.keys()
    for half in ("synthesis", "quantization"):
        assert data[half] == {name: value for name, value in plain[half].items() if value is not None}
