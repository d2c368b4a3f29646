"""`inspect`: sets side by side, what it refuses, and what it writes."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from PIL import Image

import d4c
from d4c import cli
from d4c.calibration.images import CalibrationSet
from d4c.errors import ArtifactError, DataError, SettingError
from d4c.evaluation.load_dataset import load_dataset
from d4c.inspection.inspect_sets import KIND, inspect, inspect_folders, unused_name
from d4c.inspection.report import Inspection
from d4c.models.clip import CLIP
from d4c.progress import WHOLE
from d4c.storage.outputs import output_folder

FILES = {"inspection.json", "coverage.png", "structure.png", "embedding.png", "activations.png"}


@pytest.fixture(scope="module")
def inspection(demo_vit: CLIP, leaves: CalibrationSet, prompted: CalibrationSet) -> Inspection:
    return inspect(demo_vit, {"our leaves": leaves, "pgsi": prompted}, "demo", seed=5)


@pytest.fixture(scope="module")
def saved(leaves: CalibrationSet, prompted: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two sets as saved."""
    folder = tmp_path_factory.mktemp("sets")
    leaves.save(folder / "leaves")
    prompted.save(folder / "pgsi")
    return folder


def test_all_sets_count_with_the_number_of_the_smallest(inspection: Inspection) -> None:
    assert inspection.images == 6
    assert list(inspection.sets) == ["our leaves", "pgsi", "noise", "leaves", "real"]
    assert all(len(rows) == 6 for rows in inspection.features.values())
    assert all(len(report.structure.slope) == len(report.coverage.kl) == 6 for report in inspection.sets.values())


def test_a_set_that_equals_a_control_gets_its_numbers(demo_vit: CLIP) -> None:
    same = d4c.synthesize(demo_vit, "leaves", images=6, seed=5)
    again = inspect(demo_vit, {"copy": same}, seed=5)
    copy, control = again.sets["copy"], again.sets["leaves"]
    assert (copy.structure, copy.ranges, copy.coverage) == (control.structure, control.ranges, control.coverage)
    assert all(asdict(fit) == pytest.approx({"width": 1, "extent": 1, "overlap": 1}) for fit in copy.fits.values())
    assert copy.likeness is not None
    assert copy.likeness.nearest_neighbor == 0
    assert copy.likeness.centroid_cosine == pytest.approx(1)


def test_the_reference_is_real_images_or_leaves(inspection: Inspection, demo_vit: CLIP, leaves: CalibrationSet) -> None:
    assert inspection.reference == "real"
    assert [name for name, report in inspection.sets.items() if report.likeness is None] == ["real"]
    without = inspect(demo_vit, {"ours": leaves})
    assert without.reference == "leaves"
    assert list(without.sets) == ["ours", "noise", "leaves"]
    assert len(without.prompts) == 180


def test_coverage_is_over_the_prompts_that_the_sets_were_made_for(
    inspection: Inspection, demo_vit: CLIP, prompted: CalibrationSet
) -> None:
    assert inspection.prompts == prompted.texts
    assert inspection.sets["pgsi"].coverage.recognized is not None
    assert inspection.sets["our leaves"].coverage.recognized is None
    # The same prompts in another order, after those of another set.
    turned = replace(prompted, texts=prompted.texts[::-1], targets=len(prompted.texts) - 1 - prompted.targets)
    both = inspect(demo_vit, {"other": replace(prompted, texts=(*prompted.texts, "a zebra.")), "turned": turned})
    assert both.prompts == (*prompted.texts, "a zebra.")
    assert both.sets["turned"].coverage == both.sets["other"].coverage


def test_the_summary_is_means_and_medians_of_the_record(inspection: Inspection) -> None:
    row, report = inspection.summary()["pgsi"], inspection.sets["pgsi"]
    assert row["fg_bg_variance"] == fmean(report.structure.variance)
    assert row["worst_overlap"] == report.fits[row["worst_layer"]].overlap <= row["overlap"]
    assert inspection.summary()["real"]["overlap"] == pytest.approx(1)
    assert inspection.summary()["real"]["nearest_neighbor"] is None


def test_prompted_images_are_nearer_to_their_prompts_than_noise(inspection: Inspection) -> None:
    assert fmean(inspection.sets["pgsi"].coverage.target_cosine) > fmean(
        inspection.sets["noise"].coverage.nearest_cosine
    )


def test_progress_counts_the_sets(demo_rn: CLIP) -> None:
    seen: list[tuple[int, int]] = []
    images = d4c.synthesize(demo_rn, "pink", images=4)
    inspect(demo_rn, {"pink": images}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, WHOLE), *((round(WHOLE * done / 3), WHOLE) for done in (1, 2, 3))]


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


def test_numbers_and_figures_are_written_as_one_folder(written: tuple[Inspection, Path]) -> None:
    inspection, out = written
    assert list(out.parent.iterdir()) == [out]
    assert {path.name for path in out.iterdir()} == {*FILES, "manifest.json"}
    record = json.loads((out / "inspection.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps({**inspection.to_dict(), "map": record["map"]}))
    assert {name: len(points) for name, points in record["map"].items()} == dict.fromkeys(inspection.sets, 6)
    for name in FILES - {"inspection.json"}:
        with Image.open(out / name) as picture:
            assert picture.width == 975


def test_a_disk_that_fills_leaves_an_earlier_inspection_as_it_was(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with output_folder(tmp_path / "out", KIND) as earlier:
        (earlier / "inspection.json").write_text("earlier")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        inspect_folders([saved / "pgsi"], output=tmp_path / "out")
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


def test_sets_that_do_not_fit_are_refused(demo_vit: CLIP, leaves: CalibrationSet) -> None:
    small = replace(leaves, pixels=leaves.pixels[..., :32, :32].contiguous())
    few = CalibrationSet(leaves.pixels[:3], leaves.prompts[:3], leaves.targets[:3], (), leaves.provenance)
    with pytest.raises(DataError, match="images of 32 x 32 pixels and 'demo-vit' takes 64 x 64"):
        inspect(demo_vit, {"small": small})
    with pytest.raises(DataError, match="'few' has 3 images, expected at least 4"):
        inspect(demo_vit, {"few": few})
    with pytest.raises(DataError, match="named 'noise', which is the name of a control"):
        inspect(demo_vit, {"noise": leaves})
    with pytest.raises(DataError, match="no set of images"):
        inspect(demo_vit, {})


def test_too_few_real_images_are_refused(demo_vit: CLIP, leaves: CalibrationSet) -> None:
    with pytest.raises(DataError, match="demo has 5 images, expected at least 8"):
        inspect(demo_vit, {"a": leaves}, load_dataset("demo").subset(5))


@pytest.mark.parametrize("module", ["matplotlib", "umap"])
def test_without_the_extra_only_numbers_are_available(
    module: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingError, match=f"need {module}, which is not installed"):
        inspect_folders([saved / "pgsi"], output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert inspect_folders([saved / "leaves"]).images == 8


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


def test_the_result_does_not_depend_on_the_random_state_outside(demo_rn: CLIP) -> None:
    images = {"pink": d4c.synthesize(demo_rn, "pink", images=4)}
    first = inspect(demo_rn, images)
    torch.manual_seed(1)
    assert inspect(demo_rn, images).to_dict() == first.to_dict()
