"""Commands in this process, on small models and few classes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import d4c
from d4c import cli
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_pictures
from d4c.quantization import quantize as quantize_module

Captured = tuple[int, str, str]


@pytest.fixture
def d4c_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*words: object) -> Captured:
        monkeypatch.setattr(sys, "argv", ["d4c", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration set of noise for the embedded model."""
    folder = tmp_path_factory.mktemp("cli") / "noise [1]"
    d4c.synthesize(d4c.load("demo-vit"), "noise", images=4).save(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(noise: Path, two_blocks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8 artifact of the embedded model, its text tower left float to save time."""
    folder = tmp_path_factory.mktemp("cli") / "artifact"
    calibration = d4c.CalibrationSet.load(noise)
    clip = d4c.load("demo-vit")
    d4c.quantize(clip, calibration, "W8A8", reconstruction="none", towers=("image",), prompts=["a"]).save_pretrained(
        folder
    )
    return folder


def few(spec: str) -> Dataset:
    """Emoji of 30 classes where the demo would have all."""
    dataset = load_pictures(spec)
    assert isinstance(dataset, Dataset)
    return replace(dataset, classes=dataset.classes[:30], labels=dataset.labels[:30]) if spec == "demo" else dataset


@pytest.fixture(autouse=True)
def few_classes(monkeypatch: pytest.MonkeyPatch, two_blocks: None) -> Callable[[str], Dataset]:
    for module in ("evaluate", "load_dataset"):
        monkeypatch.setattr(f"d4c.evaluation.{module}.load_pictures", few)
    return few


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_module, "PROMPTS", 8)
    monkeypatch.setattr("d4c.quantization.sensitivity.prepared.NOUNS", ["noun"] * 8)


@pytest.fixture(scope="session")
def one_sentence() -> Callable[[str], None]:
    """Behind the lines that say what is being done, one line that says why it failed."""

    def check(err: str) -> None:
        *before, last = err.splitlines()
        assert all(line.endswith(" ...") for line in before)
        assert last.startswith("error: ")
        assert last.endswith(".")
        assert "\x1b" not in err

    return check
