"""The commands that measure something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import d4c
from d4c import loading
from d4c.quantization.symmetries.uneven import uneven


@pytest.mark.usefixtures("few_prompts")
def test_sensitivity_prints_what_it_writes(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ("sensitivity", "--model", "demo-vit", "--calibration", noise, "-o", tmp_path / "found.json")
    code, out, _ = d4c_command(*words)
    assert code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(("image.", "text."))]
    assert rows[:20] == [layer["name"] for layer in found["layers"][:20]]
    assert rows[20:] == list(found["by_kind"])


def test_doctor_names_what_it_finds_in_80_columns(
    d4c_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("d4c.quantization.doctor.examine.IMAGES", 2)
    monkeypatch.setattr("d4c.quantization.doctor.examine.PROMPTS", 4)
    uneven(d4c.load("demo-vit"), 1.0, seed=0).save_pretrained(tmp_path / "uneven")
    words = ("doctor", tmp_path / "uneven", "--scheme", "W6A6")
    code, out, _ = d4c_command(*words)
    assert code == 0
    assert "Channel ranges are uneven" in out
    assert out.splitlines()[-1] == "W6A6: quantization takes care of everything above; nothing to do."
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    code, out, _ = d4c_command(*words, "--json")
    assert (code, [x["kind"] for x in json.loads(out)["findings"]]) == (0, ["channels", "spread", "spread"])


def test_evaluate_takes_a_model_or_an_artifact(d4c_command: Any, artifact: Path) -> None:
    words = ("--limit", 20, "--json")
    code, out, err = d4c_command("evaluate", "demo-vit", *words)
    assert code == 0
    plain = json.loads(out)
    assert (plain["count"], plain["fidelity"]) == (20, None)
    assert "\x1b" not in err
    code, out, _ = d4c_command("evaluate", artifact, "--reference", "demo-vit", *words)
    quantized = json.loads(out)
    assert code == 0
    assert 0.9 < quantized["fidelity"]["cosine"] < 1


def test_evaluate_judges_one_tower_and_writes_what_clip_benchmark_reads(
    d4c_command: Any, artifact: Path, tmp_path: Path
) -> None:
    words = ("evaluate", artifact, "--reference", "demo-vit", "--limit", "12", "--dense")
    code, out, _ = d4c_command(*words, "--towers", "image")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "change from float, points, paired: " in out
    assert "image tower" in " ".join(out.split())
    assert "cosine of patches" in out
    assert "tower alone" not in out
    code, out, _ = d4c_command(*words, "--towers", "image", "--format", "clip-benchmark")
    assert json.loads(out)["pretrained"] == "W8A8, image tower"
    code, out, _ = d4c_command(*words, "--format", "clip-benchmark", "-o", tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    assert (code, json.loads(out)) == (0, record)
    assert record["metrics"].keys() == {"acc1", "acc5", "mean_per_class_recall"}
    code, _, err = d4c_command("evaluate", artifact, "--image-size", "64")
    assert (code, "as they were quantized" in " ".join(err.replace("│", " ").split())) == (2, True)
    code, _, err = d4c_command("evaluate", artifact, "--towers", "text")
    assert (code, "there is none; give it as reference (--reference)" in err) == (1, True)


@pytest.mark.filterwarnings("always:PyTorch simulates")
def test_data_are_read_before_anything_is_said_of_the_model(d4c_command: Any, artifact: Path, tmp_path: Path) -> None:
    loading._say_that_simulation_is_slow.cache_clear()
    (tmp_path / "cats").mkdir()
    code, _, err = d4c_command("evaluate", artifact, "--dataset", f"folder:{tmp_path}")
    assert (code, "PyTorch simulates" in err) == (1, False)
    assert "PyTorch simulates" in d4c_command("evaluate", artifact, "--limit", 2)[2]
