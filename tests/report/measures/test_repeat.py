"""What a report says about making a model again is enough to make it again."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import replace

import d4c
from d4c.report.measures.repeat import how_to_repeat
from d4c.report.subject import Subject
from d4c.run.config import run_config
from d4c.storage.files import sha256


def test_the_settings_are_those_of_the_artifact(subject: Subject) -> None:
    again = how_to_repeat(subject)
    assert again.settings is not None
    config = run_config(tomllib.loads(again.settings))
    recipe = subject.recipe
    assert config.quantization.resolved().to_dict() == {
        name: recipe[name] for name in config.quantization.to_dict()
    } | {"overrides": recipe["overrides"]}
    assert config.synthesis.iterations == 2
    assert config.synthesis.images == 4
    assert shlex.split(again.command)[:4] == ["d4c", "run", "--config", "run.toml"]


def test_hashes_and_seeds_are_those_of_the_files(subject: Subject) -> None:
    again = how_to_repeat(subject)
    assert again.hashes["quantized weights"] == sha256(subject.folder / "model.safetensors")
    assert again.hashes["float weights"] == subject.recipe["model"]["sha256"]
    assert subject.images_folder is not None
    assert again.hashes["calibration images"] == sha256(subject.images_folder / "calibration.safetensors")
    assert again.seeds == {"synthesis": 0, "quantization": 0}
    assert again.versions["quantization"]["d4c"] == d4c.__version__


def test_pictures_of_a_user_are_calibrated_on_by_a_command(subject: Subject) -> None:
    model = subject.model
    recipe = {**model.recipe, "calibration": {**model.recipe["calibration"], "method": "pictures"}, "towers": ["image"]}
    try:
        model.recipe, kept = recipe, model.recipe
        again = how_to_repeat(replace(subject, images_folder=None))
    finally:
        model.recipe = kept
    assert again.settings is None
    words = shlex.split(again.command)
    assert words[:6] == ["d4c", "quantize", "--model", "small", "--calibration", "PICTURES"]
    assert words[words.index("--scheme") + 1] == "W4A8"
    assert words[words.index("--reconstruction") + 1] == "gptq"
    assert "--no-full-range" in words
    assert "--no-wide-class-token" in words
    assert words[words.index("--towers") + 1] == "image"
