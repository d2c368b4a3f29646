"""An error is one sentence on stderr and exit code 1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REFUSALS = {
    "unknown model": ["evaluate", "demo-cat"],
    "doctor scheme": ["doctor", "demo-vit", "--scheme", "W9A8"],
    "unknown dataset": ["evaluate", "demo-vit", "--dataset", "imagenet"],
    "limit 0": ["evaluate", "demo-vit", "--limit", "0"],
    "unknown device": ["evaluate", "demo-vit", "--device", "abacus"],
    "no images": ["synthesize", "--model", "demo-vit", "--images", "0", "-o", "OUT"],
    "missing prompts": ["synthesize", "--model", "demo-vit", "--prompts", "none.txt", "-o", "OUT"],
    "no calibration": ["quantize", "--model", "demo-vit", "--calibration", "none", "-o", "OUT"],
    "scheme": ["quantize", "--model", "demo-vit", "--calibration", "NOISE", "--scheme", "W0A8", "-o", "OUT"],
    "run full range": ["run", "--model", "demo-vit", "--track", "paper", "--full-range", "-o", "OUT"],
    "run scheme": ["run", "--model", "demo-vit", "--scheme", "8bit", "-o", "OUT"],
    "occupied output": ["quantize", "--model", "demo-vit", "--calibration", "NOISE", "-o", "NOISE"],
}


@pytest.mark.parametrize("words", REFUSALS.values(), ids=REFUSALS)
def test_an_error_of_ours_is_one_sentence_and_exit_code_1(
    one_sentence: Callable[[str], None], d4c_command: Any, words: list[str], noise: Path, tmp_path: Path
) -> None:
    places = {"OUT": tmp_path / "out", "NOISE": noise}
    code, out, err = d4c_command(*(places.get(word, word) for word in words))
    assert (code, out) == (1, "")
    one_sentence(err)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_is_one_sentence(
    one_sentence: Callable[[str], None], d4c_command: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "below"
    code, _, err = d4c_command("synthesize", "--model", "demo-vit", "--method", "noise", "--images", "1", "-o", out)
    assert code == 1
    assert str(tmp_path / "file") in err
    one_sentence(err)


def test_an_override_that_matches_nothing_is_refused_before_any_work(
    d4c_command: Any, noise: Path, tmp_path: Path
) -> None:
    words = ["quantize", "--model", "demo-vit", "--calibration", noise, "-o", tmp_path / "out"]
    code, out, err = d4c_command(*words, "--override", "image.nothing=W8A8")
    assert (code, out) == (1, "")
    assert err.startswith("error: The override 'image.nothing' matches no layer")


def test_a_damaged_artifact_is_refused_in_one_sentence(
    one_sentence: Callable[[str], None], d4c_command: Any, artifact: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"x")
    code, out, err = d4c_command("evaluate", copy)
    assert (code, out) == (1, "")
    one_sentence(err)


def test_a_report_of_what_is_no_model_is_refused(
    one_sentence: Callable[[str], None], d4c_command: Any, noise: Path, tmp_path: Path
) -> None:
    code, out, err = d4c_command("report", noise, "-o", tmp_path / "report.html")
    assert (code, out) == (1, "")
    one_sentence(err)
    assert "neither a run nor an artifact" in err
    assert list(tmp_path.iterdir()) == []
