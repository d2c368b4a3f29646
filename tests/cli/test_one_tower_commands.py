"""The commands on one tower alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import d4c
from d4c.models.clip import CLIP


@pytest.fixture
def text_folder(lone_text: CLIP, tmp_path: Path) -> Path:
    lone_text.save_pretrained(tmp_path / "text")
    return tmp_path / "text"


@pytest.mark.usefixtures("few_prompts")
def test_a_text_tower_is_quantized_without_images_and_compared(
    d4c_command: Any, text_folder: Path, tmp_path: Path
) -> None:
    words = ("--scheme", "W8A8", "--reconstruction", "none", "-o", tmp_path / "artifact")
    code, _, err = d4c_command("quantize", "--model", text_folder, *words, "--json")
    assert code == 0, err
    command = ("evaluate", tmp_path / "artifact", "--reference", text_folder, "--limit", 6, "-o", tmp_path / "out.json")
    code, out, _ = d4c_command(*command)
    compared = json.loads((tmp_path / "out.json").read_text())
    assert code == 0
    assert (compared["tower"], compared["count"]) == ("text", 6)
    assert all(0.99 < figure["low"] < 1 for figure in compared["cosine"].values())
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["embedding", "penultimate", "last"]


def test_what_one_tower_lacks_is_named(d4c_command: Any, text_folder: Path, tmp_path: Path) -> None:
    code, _, err = d4c_command("evaluate", text_folder)
    assert code == 2
    assert "'lone' is the text tower alone; name its float model with --reference" in " ".join(err.split())
    code, _, err = d4c_command("synthesize", "--model", text_folder, "-o", tmp_path / "images")
    assert code == 1
    assert "quantize it without images" in err


def test_images_are_asked_for_where_there_is_an_image_tower(d4c_command: Any, lone_image: CLIP, tmp_path: Path) -> None:
    lone_image.save_pretrained(tmp_path / "image")
    code, _, err = d4c_command("quantize", "--model", tmp_path / "image", "-o", tmp_path / "artifact")
    assert code == 2
    assert "--calibration" in err
    assert d4c.load(tmp_path / "image").towers == ("image",)
