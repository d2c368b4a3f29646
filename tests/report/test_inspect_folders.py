"""`inspect_folders`: sets named by their method, what it refuses, and the page that it writes."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d4c import cli
from d4c.calibration.images import CalibrationSet
from d4c.errors import ArtifactError, DataError, SettingError
from d4c.inspection.report import Inspection
from d4c.report.inspect_folders import KIND, inspect_folders, unused_name
from d4c.storage.outputs import output_folder


@pytest.fixture(scope="module")
def saved(leaves: CalibrationSet, prompted: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two sets as saved."""
    folder = tmp_path_factory.mktemp("sets")
    leaves.save(folder / "leaves")
    prompted.save(folder / "pgsi")
    return folder


@pytest.fixture(scope="module")
def written(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspection, Path]:
    """An inspection of three folders, and the folder that it was written to."""
    out = tmp_path_factory.mktemp("written") / "out"
    return inspect_folders([saved / "pgsi", saved / "leaves", saved / "pgsi"], output=out), out


def test_folders_are_named_by_method_and_bring_their_model(written: tuple[Inspection, Path], saved: Path) -> None:
    inspection, _ = written
    assert list(inspection.sets) == ["pgsi", "leaves 2", "pgsi 2", "noise", "leaves"]
    assert inspection.sets["leaves 2"].source == str(saved / "leaves")
    assert inspection.model == "demo-vit"


def test_numbers_and_a_page_are_written_as_one_folder(written: tuple[Inspection, Path], saved: Path) -> None:
    inspection, out = written
    assert list(out.parent.iterdir()) == [out]
    assert {path.name for path in out.iterdir()} == {"inspection.json", "report.html", "manifest.json"}
    record = json.loads((out / "inspection.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(inspection.to_dict()))
    assert {name: len(points) for name, points in record["map"].items()} == dict.fromkeys(inspection.sets, 6)
    page = (out / "report.html").read_text(encoding="utf-8")
    for chart in ("coverage", "prompts", "structure", "spectrum", "map", "fits"):
        assert page.count(f'id="chart-{chart}"') == 1
    assert all(f"<dd>{saved / name}</dd>" in page for name in ("pgsi", "leaves"))
    assert page.count("a photo of a ship.") >= 2  # below the picture, and said of its point on the map


def test_a_disk_that_fills_leaves_an_earlier_inspection_as_it_was(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with output_folder(tmp_path / "out", KIND) as earlier:
        (earlier / "inspection.json").write_text("earlier")
    monkeypatch.setattr("pathlib.Path.write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        inspect_folders([saved / "pgsi"], output=tmp_path / "out")
    monkeypatch.undo()
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "inspection.json", "manifest.json"}
    assert (tmp_path / "out" / "inspection.json").read_text() == "earlier"


def test_used_names_get_the_first_unused_number() -> None:
    assert unused_name("d4c", ["noise"]) == "d4c"
    assert unused_name("d4c", ["d4c", "d4c 2", "noise"]) == "d4c 3"


def resaved(images: CalibrationSet, folder: Path, **provenance: Any) -> Path:
    """A set with some entries of its provenance replaced, or left out where None is given."""
    entries = {**images.provenance, **provenance}
    replace(images, provenance={key: value for key, value in entries.items() if value is not None}).save(folder)
    return folder


REFUSED: dict[str, tuple[Callable[[Path, Path, CalibrationSet], dict[str, Any]], type[Exception], str]] = {
    "no calibration set": (
        lambda saved, tmp, _: {"folders": [saved]},
        ArtifactError,
        "has no readable provenance.json; give the folder of a calibration set",
    ),
    "occupied output": (
        lambda saved, tmp, _: {"folders": [saved / "pgsi"], "output": saved},
        ArtifactError,
        "exists and is not an inspection; choose another folder",
    ),
    "output is a file": (
        lambda saved, tmp, _: {"folders": [saved / "pgsi"], "output": saved / "pgsi" / "provenance.json"},
        ArtifactError,
        "exists and is not an inspection; choose another folder",
    ),
    "foreign model": (
        lambda saved, tmp, leaves: {"folders": [resaved(leaves, tmp / "a", model={"name": "ViT-B-32", "sha256": "0"})]},
        SettingError,
        "made with 'ViT-B-32', which is not an embedded model; name the model with --model",
    ),
    "another model of that name": (
        lambda saved, tmp, leaves: {"folders": [resaved(leaves, tmp / "a", model={"name": "demo-vit", "sha256": "0"})]},
        SettingError,
        "made with 'demo-vit', .* name the model with --model",
    ),
    "no model": (
        lambda saved, tmp, leaves: {"folders": [resaved(leaves, tmp / "a", model=None)]},
        SettingError,
        "name the model with --model",
    ),
    "other mean": (
        lambda saved, tmp, leaves: {"folders": [resaved(leaves, tmp / "a", mean=[0.5, 0.5, 0.5])]},
        DataError,
        r"was normalized with mean \[0.5, 0.5, 0.5\]",
    ),
    "unknown real images": (
        lambda saved, tmp, _: {"folders": [saved / "pgsi"], "real": "photos"},
        SettingError,
        "The dataset is 'photos', expected",
    ),
}


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_inspected_is_refused_in_one_sentence(
    make: Callable[[Path, Path, CalibrationSet], dict[str, Any]],
    kind: type[Exception],
    message: str,
    saved: Path,
    tmp_path: Path,
    leaves: CalibrationSet,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        inspect_folders(**make(saved, tmp_path, leaves))
    assert "\n" not in str(caught.value)


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["d4c", "inspect", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return (code, *capsys.readouterr())


def test_the_command_prints_a_table_or_all_numbers(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command(capsys, monkeypatch, saved / "leaves", "--real", "demo")
    assert (code, err) == (0, "inspect ...\n")
    assert "8 images of each set, demo-vit; ranges relative to real" in out
    assert f"leaves 2: {saved / 'leaves'}" in out.splitlines()
    assert "\x1b" not in out
    assert max(map(len, out.splitlines()[:20])) <= 80
    code, out, _ = command(capsys, monkeypatch, saved / "leaves", "--json")
    assert (code, json.loads(out)["reference"]) == (0, "leaves")


def test_the_command_fails_in_one_sentence(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command(capsys, monkeypatch, saved / "none")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {saved / 'none'} has no readable provenance.json")
    below_a_file = saved / "pgsi" / "provenance.json" / "out"
    code, out, err = command(capsys, monkeypatch, saved / "pgsi", "-o", below_a_file)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {below_a_file} cannot be written (Not a directory)")
