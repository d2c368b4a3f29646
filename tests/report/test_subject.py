"""What lies beside a model is used only if it belongs to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import d4c
from d4c.errors import ArtifactError, SettingError
from d4c.models.clip import CLIP
from d4c.report.gather import _speed
from d4c.report.missing import Missing
from d4c.report.subject import Subject, float_model, open_subject
from d4c.report.write_report import default_file


@pytest.mark.usefixtures("subject")
def test_an_artifact_alone_has_nothing_beside_it(root: Path) -> None:
    alone = open_subject(root / "artifact")
    assert (alone.images, alone.export, alone.run, alone.rows) == (None, None, None, ())
    assert list(alone.seconds) == ["synthesis", "quantization"]
    assert alone.name == "W4A8, d4c"


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is neither a run nor an artifact"):
        open_subject(tmp_path)


@pytest.mark.usefixtures("subject")
def test_other_images_are_refused(tmp_path: Path, small: CLIP, root: Path) -> None:
    d4c.synthesize(small, "noise", images=4, progress=None).save(tmp_path / "noise")
    with pytest.raises(SettingError, match="does not hold the images that"):
        open_subject(root / "artifact", tmp_path / "noise")


@pytest.mark.usefixtures("subject")
def test_a_folder_that_is_no_export_is_refused(root: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an export"):
        open_subject(root / "artifact", export=root / "images")


def test_the_float_model_is_checked_by_its_weights(subject: Subject, root: Path) -> None:
    with pytest.raises(SettingError, match="which is not an embedded model; name the float model with --model"):
        float_model(subject, None, "cpu")
    with pytest.raises(SettingError, match="does not have the weights that"):
        float_model(subject, "demo-rn", "cpu")
    assert float_model(subject, str(root / "model"), "cpu").image_size == 64


def test_a_report_lies_in_a_run_and_beside_an_artifact(tmp_path: Path, root: Path) -> None:
    (tmp_path / "run" / "artifact").mkdir(parents=True)
    assert default_file(tmp_path / "run") == tmp_path / "run" / "report.html"
    assert default_file(root / "artifact") == root.resolve() / "artifact-report.html"
    assert default_file(root / "artifact", tmp_path / "other").name == "artifact-other-report.html"


def test_an_export_that_cannot_be_executed_is_no_end(small: CLIP, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text("{}")
    speed = _speed(small, tmp_path)
    assert isinstance(speed, Missing)
    assert speed.reason.startswith("Speed was not measured: ")
    assert speed.reason.endswith(".")


def test_of_several_exports_that_of_our_runtime_is_taken(tmp_path: Path, subject: Subject, root: Path) -> None:
    artifact = shutil.copytree(root / "artifact", tmp_path / "a")
    for name, kind in (("a-graphs", "graphs"), ("a-onnx", "onnx")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "export.json").write_text(json.dumps({"artifact": subject.digest, "format": kind}))
        (tmp_path / name / "image.onnx").touch()
    assert open_subject(artifact).export == tmp_path / "a-onnx"
