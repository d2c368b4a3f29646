"""The command line: exit codes, streams, and output that programs can read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, get_args

import pytest

import d4c
from d4c import cli
from d4c.cli.options import parse_overrides
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_pictures
from d4c.printable import printable
from d4c.quantization import quantize as quantize_module
from d4c.quantization.config import RangeRule, Reconstruction
from d4c.quantization.formats.scheme import Track
from d4c.quantization.rounding.config import Importance
from d4c.quantization.symmetries.uneven import uneven
from d4c.run.config import read_toml, run_config
from d4c.run.origins import DEMO
from d4c.settings.presets import Preset
from d4c.synthesis.config import PRESETS
from d4c.synthesis.methods.table import METHODS

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
def few_classes(monkeypatch: pytest.MonkeyPatch, two_blocks: None) -> None:
    monkeypatch.setattr("d4c.evaluation.evaluate.load_pictures", few)


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_module, "PROMPTS", 8)
    monkeypatch.setattr("d4c.quantization.sensitivity.measure.NOUNS", ["noun"] * 8)


def assert_one_sentence(err: str) -> None:
    """Behind the lines that say what is being done, one line that says why it failed."""
    *before, last = err.splitlines()
    assert all(line.endswith(" ...") for line in before)
    assert last.startswith("error: ")
    assert last.endswith(".")
    assert "\x1b" not in err


def run_module(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "d4c", *words], capture_output=True, text=True)


def test_importing_the_package_and_its_command_line_costs_no_torch() -> None:
    program = "import sys, d4c, d4c.cli; assert 'torch' not in sys.modules; assert 'pyarrow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_program() -> None:
    done = run_module("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("run", "synthesize", "quantize", "evaluate"))
    assert "\x1b" not in done.stdout
    failed = run_module("evaluate", "no/such/file.pt")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert_one_sentence(failed.stderr)


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


def test_ctrl_c_ends_in_one_sentence(d4c_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("d4c.run.job.run", stop)
    words = ("run", "--model", "demo-vit", "-o", tmp_path / "out")
    assert d4c_command(*words) == (130, "", "Stopped; the same command resumes where it stopped.\n")
    monkeypatch.setattr("d4c.runtime.runtime_clip.RuntimeCLIP", stop)
    assert (
        d4c_command("search", "--quiet", "a", tmp_path, "c")[2]
        == "Stopped; the same command resumes where it stopped.\n"
    )
    monkeypatch.setattr("d4c.evaluation.evaluate.evaluate", stop)
    assert d4c_command("evaluate", "demo-vit", "--quiet") == (130, "", "Stopped.\n")


def test_ctrl_c_is_one_sentence_whatever_a_library_makes_of_it(
    d4c_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("a callback failed")

    monkeypatch.setattr("d4c.run.job.run", stop)
    words = ("run", "--model", "demo-vit", "-o", tmp_path / "out")
    with pytest.raises(RuntimeError):
        d4c_command(*words)
    monkeypatch.setattr("d4c.interrupt.Interrupt.happened", True)
    assert d4c_command(*words) == (130, "", "Stopped; the same command resumes where it stopped.\n")


@pytest.mark.parametrize("module", ["d4c.cli", "typer", "rich", "torch"])
def test_ctrl_c_during_an_import_is_one_sentence(module: str, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and self in sys.meta_path:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
sys.argv = ["d4c", "evaluate", "no/such/file.pt"]
from d4c.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


FULL = {
    "system": OSError(28, "No space left on device", "a/b"),
    "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    "numpy": OSError("10000 requested and 109 written"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_is_one_sentence(
    d4c_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("d4c.run.job.run", fill)
    code, out, err = d4c_command("run", "--model", "demo-vit", "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert_one_sentence(err)
    assert "No space left on device; free some space" in err or "10000 requested" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_printed_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "d4c", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert_one_sentence(done.stderr)


def test_letters_that_a_code_page_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a console of Windows."""
    page = TextIOWrapper(BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", page)
    monkeypatch.setattr(sys, "argv", ["d4c", "run", "--model", "é犬", "--dry-run"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    page.seek(0)
    assert 'model = "é?"' in page.read()


NAMES = {"escape": "a\x1b[31m", "markup": "[red]a", "line break": "a\nerror: b", "turned": "a\u202eb"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_cannot_steer_a_terminal(d4c_command: Any, name: str, tmp_path: Path) -> None:
    model = tmp_path / f"{name}.safetensors"
    model.symlink_to(DEMO / "demo-vit.safetensors")
    for source in (model, tmp_path / name / "missing.pt"):
        _, out, err = d4c_command("evaluate", source, "--limit", 1)
        shown = printable(name)
        assert shown in out + err
        assert "\x1b" not in out + err
        assert "\u202e" not in out + err
        assert "\nerror: b" not in out + err


def test_quiet_prints_the_result_alone_and_verbose_the_settings(d4c_command: Any, tmp_path: Path) -> None:
    words = ("synthesize", "--model", "demo-vit", "--method", "noise", "--images", 1, "-o", tmp_path / "noise")
    code, out, err = d4c_command(*words, "--quiet")
    assert (code, err) == (0, "")
    assert "1 images" in out
    assert "images=1" in d4c_command(*words, "--verbose")[2]
    assert "images=1" not in d4c_command(*words)[2]


@pytest.mark.usefixtures("few_prompts")
def test_a_warning_is_a_sentence_without_a_line_of_code(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ("quantize", "--model", "demo-rn", "--calibration", noise, "--reconstruction", "none", "-o", tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, _, err = d4c_command(*words)
    assert "warning: The text ranges rest on few prompts (8); give at least 32." in err.splitlines()
    assert ".py" not in err


def test_tables_fit_80_columns_and_leave_out_what_is_empty(d4c_command: Any) -> None:
    code, out, _ = d4c_command("evaluate", "demo-vit", "--limit", 5)
    assert code == 0
    assert "cosine" not in out
    code, out, _ = d4c_command("evaluate", "demo-vit", "--limit", 5, "--reference", "demo-vit")
    assert all(heading in out for heading in ("model", "top-1 %", "top-5 %", "same class %", "cosine"))
    assert max(map(len, out.splitlines())) <= 80


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
    d4c_command: Any, words: list[str], noise: Path, tmp_path: Path
) -> None:
    places = {"OUT": tmp_path / "out", "NOISE": noise}
    code, out, err = d4c_command(*(places.get(word, word) for word in words))
    assert (code, out) == (1, "")
    assert_one_sentence(err)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_is_one_sentence(d4c_command: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "below"
    code, _, err = d4c_command("synthesize", "--model", "demo-vit", "--method", "noise", "--images", "1", "-o", out)
    assert code == 1
    assert str(tmp_path / "file") in err
    assert_one_sentence(err)


def test_an_override_without_a_scheme_is_wrong_usage(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ["quantize", "--model", "demo-vit", "--calibration", noise, "-o", tmp_path / "out", "--override", "image.x"]
    code, _, err = d4c_command(*words)
    assert code == 2
    assert "PATTERN=SCHEME" in err


def test_an_override_that_matches_nothing_is_refused_before_any_work(
    d4c_command: Any, noise: Path, tmp_path: Path
) -> None:
    words = ["quantize", "--model", "demo-vit", "--calibration", noise, "-o", tmp_path / "out"]
    code, out, err = d4c_command(*words, "--override", "image.nothing=W8A8")
    assert (code, out) == (1, "")
    assert err.startswith("error: The override 'image.nothing' matches no layer")


def test_an_override_splits_at_its_last_equals_sign() -> None:
    assert parse_overrides(["image.blocks.{0,1}.*=W8A8", "a=W4A4"]) == {"image.blocks.{0,1}.*": "W8A8", "a": "W4A4"}


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
def test_run_takes_the_options_of_quantize(d4c_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], images=4))
    monkeypatch.setattr("d4c.evaluation.load_dataset.load_pictures", few)
    words = ("run", "--model", "demo-vit", "--method", "noise", "--preset", "quick", "--reconstruction", "none")
    code, out, _ = d4c_command(
        *words, "--scheme", "W8A8", "--full-range", "--no-soften", "-o", tmp_path / "r", "--json"
    )
    assert (code, [row["name"] for row in json.loads(out)["rows"]]) == (0, ["float", "noise"])
    recipe = d4c.load_quantized(tmp_path / "r" / "artifact").recipe
    assert (recipe["full_range"], recipe["soften"]) == (True, False)
    report = tmp_path / "r" / "report.html"
    page = report.read_text()
    assert "demo-vit in W8A8, noise" in page
    again = d4c_command("report", tmp_path / "r", "--limit", 3, "--json", "-o", tmp_path / "few.html")
    assert (again[0], json.loads(again[1])["examples"]["pictures"]) == (0, 3)
    assert (tmp_path / "few.html").read_text() != report.read_text() == page


def test_a_report_of_what_is_no_model_is_refused(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    code, out, err = d4c_command("report", noise, "-o", tmp_path / "report.html")
    assert (code, out) == (1, "")
    assert_one_sentence(err)
    assert "neither a run nor an artifact" in err
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.usefixtures("few_prompts")
def test_sensitivity_prints_what_it_writes(d4c_command: Any, noise: Path, tmp_path: Path) -> None:
    words = ("sensitivity", "--model", "demo-rn", "--calibration", noise, "-o", tmp_path / "found.json")
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
    assert "cosine of patches" in out
    assert "tower alone" not in out
    code, out, _ = d4c_command(*words, "--format", "clip-benchmark", "-o", tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    assert (code, json.loads(out)) == (0, record)
    assert record["metrics"].keys() == {"acc1", "acc5", "mean_per_class_recall"}
    code, _, err = d4c_command("evaluate", artifact, "--towers", "text")
    assert (code, "there is none; give reference" in err) == (1, True)


def test_a_table_that_is_piped_has_no_color(d4c_command: Any) -> None:
    code, out, err = d4c_command("evaluate", "demo-vit", "--limit", 5)
    assert code == 0
    assert "demo-vit" in out
    assert "top-1 %" in out
    assert "\x1b" not in out + err


def test_a_damaged_artifact_is_refused_in_one_sentence(d4c_command: Any, artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"x")
    code, out, err = d4c_command("evaluate", copy)
    assert (code, out) == (1, "")
    assert_one_sentence(err)
