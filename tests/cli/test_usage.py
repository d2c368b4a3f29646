"""How commands are called: help, choices, options that must be there, wrong usage."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from d4c.cli.options import parse_overrides
from d4c.quantization.config import RangeRule, Reconstruction
from d4c.quantization.formats.scheme import Track
from d4c.quantization.rounding.config import Importance
from d4c.run.config import read_toml, run_config
from d4c.settings.presets import Preset
from d4c.synthesis.methods.table import METHODS


def run_module(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "d4c", *words], capture_output=True, text=True)


def test_importing_the_package_and_its_command_line_costs_no_torch() -> None:
    program = "import sys, d4c, d4c.cli; assert 'torch' not in sys.modules; assert 'pyarrow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_program(one_sentence: Callable[[str], None]) -> None:
    done = run_module("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("run", "synthesize", "quantize", "evaluate"))
    assert "\x1b" not in done.stdout
    failed = run_module("evaluate", "no/such/file.pt")
    assert failed.returncode == 1
    assert failed.stdout == ""
    one_sentence(failed.stderr)


@pytest.mark.parametrize(
    "words",
    [["fly"], ["evaluate"], ["evaluate", "demo-vit", "--limit", "many"]],
    ids=str,
)
def test_wrong_usage_is_exit_code_2(d4c_command: Any, words: list[str]) -> None:
    code, out, err = d4c_command(*words)
    assert code == 2
    assert out == ""
    assert "Usage" in err


COMMANDS = (
    "run",
    "synthesize",
    "quantize",
    "evaluate",
    "compare",
    "report",
    "export",
    "search",
    "serve",
    "inspect",
    "doctor",
    "sensitivity",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(d4c_command: Any, command: str) -> None:
    code, out, err = d4c_command(command, "--help")
    assert (code, err) == (0, "")
    assert d4c_command(command, "-h")[1] == out
    assert all(option in out for option in ("--json", "--quiet", "--verbose"))
    assert f"Example: d4c {command} " in out


def test_the_list_of_commands_is_whole(d4c_command: Any) -> None:
    code, out, _ = d4c_command("-h")
    assert code == 0
    listed = out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


CHOICES = {
    ("run", "--preset"): get_args(Preset),
    ("run", "--track"): get_args(Track),
    ("quantize", "--ranges"): get_args(RangeRule),
    ("quantize", "--reconstruction"): get_args(Reconstruction),
    ("quantize", "--importance"): get_args(Importance),
    ("synthesize", "--method"): tuple(METHODS),
    ("evaluate", "--runtime"): ("torch", "onnxruntime", "openvino"),
}


@pytest.mark.parametrize(("command", "option"), CHOICES, ids=str)
def test_help_lists_choices_and_another_one_is_wrong_usage(d4c_command: Any, command: str, option: str) -> None:
    listed = d4c_command(command, "--help")[1].split(f"  {option} ")[1]
    assert all(choice in listed for choice in CHOICES[command, option])
    code, out, err = d4c_command(command, option, "magic")
    assert (code, out) == (2, "")
    assert "'magic' is not one of" in err
    assert all(choice in err for choice in CHOICES[command, option])


BAD_DRY_RUNS = {
    "heads": (("run", "--heads", "0", "8"), "heads"),
    "image size": (("run", "--image-size", "0"), "image_size is 0"),
    "device": (("run", "--device", "gpu"), "The device 'gpu' cannot be used"),
    "a comparison's device": (("compare", "--device", "gpu"), "The device 'gpu' cannot be used"),
}


@pytest.mark.parametrize(("words", "about"), BAD_DRY_RUNS.values(), ids=BAD_DRY_RUNS)
def test_a_dry_run_refuses_what_no_model_can_have(d4c_command: Any, words: tuple[str, ...], about: str) -> None:
    code, out, err = d4c_command(*words, "--model", "demo-rn", "--dry-run")
    assert (code, out) == (1, "")
    assert about in err


def test_a_dry_run_prints_what_a_file_may_hold(d4c_command: Any, tmp_path: Path) -> None:
    words = ("--model", "demo-rn", "--preset", "quick", "--scheme", "W4A8", "--scheme", "W4A4", "--no-soften")
    code, out, err = d4c_command("run", *words, "--dry-run")
    assert (code, err) == (0, "")
    (tmp_path / "run.toml").write_text(out)
    assert d4c_command("run", "--config", tmp_path / "run.toml", "--dry-run") == (0, out, "")
    changed = d4c_command("run", "--config", tmp_path / "run.toml", "--seed", 7, "--soften", "--dry-run")[1]
    record = run_config(read_toml(tmp_path / "run.toml"))
    assert (
        changed
        == replace(
            record,
            synthesis=replace(record.synthesis, seed=7),
            quantization=replace(record.quantization, seed=7, soften=True),
        ).to_toml()
    )


@pytest.mark.parametrize("words", [["run", "-o", "x"], ["run", "--model", "demo-vit"]], ids=["model", "output"])
def test_a_run_without_what_it_needs_is_wrong_usage(d4c_command: Any, words: list[str]) -> None:
    code, out, err = d4c_command(*words)
    assert (code, out) == (2, "")
    assert "Missing" in err


def test_an_override_without_a_scheme_is_wrong_usage(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ["quantize", "--model", "demo-vit", "--calibration", noise, "-o", tmp_path / "out", "--override", "image.x"]
    code, _, err = d4c_command(*words)
    assert code == 2
    assert "PATTERN=SCHEME" in err


def test_an_override_splits_at_its_last_equals_sign() -> None:
    assert parse_overrides(["image.blocks.{0,1}.*=W8A8", "a=W4A4"]) == {"image.blocks.{0,1}.*": "W8A8", "a": "W4A4"}
