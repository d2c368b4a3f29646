"""The commands that make something."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import d4c
from d4c.evaluation.dataset import Dataset
from d4c.models.clip import CLIP
from d4c.synthesis.config import PRESETS


def test_synthesize_writes_a_calibration_set(d4c_command: Any, tmp_path: Path) -> None:
    place = tmp_path / "a folder [with] brackets and a name that is far longer than a line of eighty characters"
    words = ("synthesize", "--model", "demo-vit", "--method", "leaves", "--images", 2, "--seed", 3, "-o", place)
    code, out, _ = d4c_command(*words)
    assert code == 0
    assert f"2 images in {place}; look at {place / 'contact_sheet.png'}" in out.splitlines()
    code, out, _ = d4c_command(*words, "--json")
    assert (code, json.loads(out)["method"], json.loads(out)["seed"]) == (0, "leaves", 3)
    assert len(d4c.CalibrationSet.load(place)) == 2


@pytest.mark.usefixtures("few_prompts")
def test_quantize_writes_an_artifact_and_names_exceptions(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ("quantize", "--model", "demo-rn", "--calibration", noise, "--reconstruction", "none", "-o", tmp_path / "a")
    code, out, _ = d4c_command(*words, "--scheme", "W3A8", "--override", "text.*=W4A8")
    assert code == 0
    assert "exception: text.* at W4A8" in out.splitlines()
    assert "exception: image.pool.out at W8A8" in out.splitlines()
    assert "\x1b" not in out
    assert d4c.load_quantized(tmp_path / "a").recipe["scheme"] == "W3A8"


@pytest.mark.usefixtures("few_prompts")
def test_run_takes_the_options_of_quantize(
    d4c_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_classes: Callable[[str], Dataset]
) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], images=4))
    monkeypatch.setattr("d4c.evaluation.load_dataset.load_pictures", few_classes)
    words = ("run", "--model", "demo-vit", "--method", "noise", "--preset", "quick", "--reconstruction", "none")
    code, out, _ = d4c_command(
        *words,
        "--scheme",
        "W8A8",
        "--full-range",
        "--no-soften",
        "--no-wide-class-token",
        "-o",
        tmp_path / "r",
        "--json",
    )
    assert (code, [row["name"] for row in json.loads(out)["rows"]]) == (0, ["float", "noise"])
    recipe = d4c.load_quantized(tmp_path / "r" / "artifact").recipe
    assert (recipe["full_range"], recipe["soften"], recipe["wide_class_token"]) == (True, False, False)
    report = tmp_path / "r" / "report.html"
    page = report.read_text()
    assert "demo-vit in W8A8, noise" in page
    again = d4c_command("report", tmp_path / "r", "--limit", 3, "--json", "-o", tmp_path / "few.html")
    assert (again[0], json.loads(again[1])["examples"]["pictures"]) == (0, 3)
    assert (tmp_path / "few.html").read_text() != report.read_text() == page


@pytest.mark.usefixtures("few_prompts")
def test_quantize_takes_a_folder_of_pictures(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ("quantize", "--model", "demo-vit", "--reconstruction", "none", "--json", "-o", tmp_path / "a")
    code, out, _ = d4c_command(*words, "--calibration", noise / "images")
    assert code == 0
    assert json.loads(out)["calibration"]["pictures"] == ["000.png", "001.png", "002.png", "003.png"]


@pytest.mark.usefixtures("few_prompts")
def test_quantize_keeps_what_is_rebuilt_until_the_artifact_is_safe(
    d4c_command: Any, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    words = ("quantize", "--model", "demo-vit", "--calibration", noise, "-o", tmp_path / "a")
    monkeypatch.setattr("d4c.storage.resumable.Saves.due", lambda self: True)
    with monkeypatch.context() as patch:
        patch.setattr("d4c.quantization.quantized.QuantizedCLIP.save_pretrained", full)
        assert d4c_command(*words, "--reconstruction", "gptq")[0] == 1
    assert (tmp_path / "a.unfinished" / "text.head.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr("d4c.quantization.rounding.reconstruction._Walk._rebuild", full)
        assert d4c_command(*words, "--reconstruction", "gptq")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.usefixtures("few_prompts")
def test_quantize_reaches_a_target(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ("quantize", "--model", "demo-rn", "--calibration", noise, "--reconstruction", "none", "-o", tmp_path / "a")
    held = ("--override", "{image.blocks.[1-9],text.blocks}.*=W4A8")
    code, out, _ = d4c_command(*words, *held, "--target-bits", 4.9, "--json")
    assert code == 0
    assert json.loads(out)["effective_bits"] <= 4.9
    assert any(pattern.startswith("image.blocks.0") for pattern in json.loads(out)["overrides"])


def test_images_of_another_size_are_refused_before_the_model_is_examined(
    d4c_command: Any, lone_image: CLIP, tmp_path: Path
) -> None:
    d4c.synthesize(lone_image, "noise", images=2).save(tmp_path / "small")
    code, out, err = d4c_command(
        "quantize", "--model", "demo-vit", "--calibration", tmp_path / "small", "-o", tmp_path / "a"
    )
    assert (code, out) == (1, "")
    assert "doctor" not in err
    assert "synthesize images from this model" in err
