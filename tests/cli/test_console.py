"""What a terminal shows: interruptions, full disks, names that would steer it, widths and colors."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from d4c import cli
from d4c.printable import printable
from d4c.run.origins import DEMO


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
    one_sentence: Callable[[str], None],
    d4c_command: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("d4c.run.job.run", fill)
    code, out, err = d4c_command("run", "--model", "demo-vit", "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    one_sentence(err)
    assert "No space left on device; free some space" in err or "10000 requested" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_printed_is_an_error(one_sentence: Callable[[str], None]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "d4c", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    one_sentence(done.stderr)


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_an_output_that_is_closed_from_the_start_is_no_error() -> None:
    command = ["sh", "-c", 'exec "$0" -m d4c --version >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


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
    words = ("quantize", "--model", "demo-vit", "--calibration", noise, "--reconstruction", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, _, err = d4c_command(*words, "-o", tmp_path / "a")
    assert "warning: The text ranges rest on few prompts (8); give at least 32." in err.splitlines()
    assert ".py" not in err


def test_tables_fit_80_columns_and_leave_out_what_is_empty(d4c_command: Any) -> None:
    code, out, _ = d4c_command("evaluate", "demo-vit", "--limit", 5)
    assert code == 0
    assert "cosine" not in out
    code, out, _ = d4c_command("evaluate", "demo-vit", "--limit", 5, "--reference", "demo-vit")
    assert all(heading in out for heading in ("model", "top-1 %", "top-5 %", "same class %", "cosine"))
    assert max(map(len, out.splitlines())) <= 80


def test_a_table_that_is_piped_has_no_color(d4c_command: Any) -> None:
    code, out, err = d4c_command("evaluate", "demo-vit", "--limit", 5)
    assert code == 0
    assert "demo-vit" in out
    assert "top-1 %" in out
    assert "\x1b" not in out + err
