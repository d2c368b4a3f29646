"""A reconstruction that is killed and started again ends with the weights of one that was not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.errors import ArtifactError
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.quantization.rounding import reconstruction
from d4c.quantization.rounding.resume import refuse_other_files, remove_checkpoint
from d4c.storage.resumable import Saves

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow"]


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write after every stage."""
    monkeypatch.setattr(Saves, "due", lambda self: True)


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that were rebuilt, in order."""
    stages: list[str] = []
    original = reconstruction._Walk._rebuild

    def rebuild(self: Any, stage: Any, *rest: Any) -> None:
        stages.append(stage.name)
        original(self, stage, *rest)

    monkeypatch.setattr(reconstruction._Walk, "_rebuild", rebuild)
    return stages


@pytest.fixture(scope="module")
def images(tiny_vit: CLIP) -> CalibrationSet:
    return d4c.synthesize(tiny_vit, "noise", images=4)


def make(clip: CLIP, images: CalibrationSet, folder: Path | None, kill_at: int | None = None, **settings: Any) -> str:
    """Fingerprint of every tensor of the quantized model; a job to be killed ends after so many stages."""
    passed: list[str] = []
    pass_stage = reconstruction._Walk.pass_stage

    def pass_or_die(self: Any, stage: Any, *rest: Any) -> None:
        pass_stage(self, stage, *rest)
        passed.append(stage.name)
        if len(passed) == kill_at:
            raise Killed

    few = {"iterations": 2, "batch_size": 2, "prompts": PROMPTS, "towers": ("image",), **settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction._Walk, "pass_stage", pass_or_die)
        return model_hash(d4c.quantize(clip, images, "W3A4", checkpoint=folder, **few))


@pytest.fixture(scope="module")
def finished(tiny_vit: CLIP, images: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The checkpoint of a job that was done, and its fingerprint."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saves, "due", lambda self: True)
        return folder, make(tiny_vit, images, folder)


VIT = ["image.embed", "image.blocks.0", "image.blocks.1", "image.head"]
TEXT = ["text.blocks.0", "text.blocks.1", "text.head"]


@pytest.mark.parametrize("kind", ["block", "layer", "gptq"])
def test_a_killed_job_ends_with_the_same_weights(
    tiny_vit: CLIP, images: CalibrationSet, tmp_path: Path, rebuilt: list[str], kind: str
) -> None:
    settings: dict[str, Any] = {"reconstruction": kind, "towers": ("image", "text")}
    whole = make(tiny_vit, images, None, **settings)
    for kill_at, done in ((1, 0), (4, 1), (7, 4)):  # stage 5, the token table, is not rebuilt
        rebuilt.clear()
        with pytest.raises(Killed):
            make(tiny_vit, images, tmp_path, kill_at, **settings)
        assert rebuilt == [*VIT, *TEXT][done : kill_at - (kill_at > 4)]
    rebuilt.clear()
    assert make(tiny_vit, images, tmp_path, **settings) == whole
    assert rebuilt == TEXT[2:]


def test_a_killed_resnet_on_the_paper_track_ends_with_the_same_weights(tiny_rn: CLIP, tmp_path: Path) -> None:
    images = d4c.synthesize(tiny_rn, "noise", images=4)
    settings: dict[str, Any] = {"track": "paper"}
    whole = make(tiny_rn, images, None, **settings)
    with pytest.raises(Killed):
        make(tiny_rn, images, tmp_path, 4, **settings)
    assert make(tiny_rn, images, tmp_path, **settings) == whole


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "kind": {"reconstruction": "layer"},
    "iterations": {"iterations": 1},
    "override": {"overrides": {"image.blocks.0.*": "W8A8"}},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_other_settings_is_replaced(
    tiny_vit: CLIP,
    images: CalibrationSet,
    finished: tuple[Path, str],
    tmp_path: Path,
    rebuilt: list[str],
    other: dict[str, Any],
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    found = make(tiny_vit, images, tmp_path, **other)
    assert rebuilt == VIT
    assert found == make(tiny_vit, images, tmp_path, **other)
    assert rebuilt == VIT


def test_other_images_are_another_checkpoint(
    tiny_vit: CLIP, images: CalibrationSet, finished: tuple[Path, str], tmp_path: Path, rebuilt: list[str]
) -> None:
    """Even if their provenance does not tell them apart."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    images = CalibrationSet(-images.pixels, images.prompts, images.targets, images.texts, images.provenance)
    make(tiny_vit, images, tmp_path)
    assert rebuilt == VIT


@pytest.mark.parametrize("damage", ["a flipped bit", "another shape", "a tensor less"])
def test_a_damaged_stage_is_rebuilt(
    tiny_vit: CLIP,
    images: CalibrationSet,
    finished: tuple[Path, str],
    tmp_path: Path,
    rebuilt: list[str],
    damage: str,
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "image.blocks.1.safetensors"
    tensors, name = load_file(file), "image.blocks.1.mlp.fc1.weight_scale"
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    if damage == "a flipped bit":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        changed = {name: tensors[name][:5].clone()} if damage == "another shape" else {}
        save_file({k: v for k, v in tensors.items() if k != name} | changed, file, metadata=metadata)
    assert make(tiny_vit, images, tmp_path) == finished[1]
    assert rebuilt == ["image.blocks.1"]


def test_quick_stages_are_written_together(
    tiny_vit: CLIP, images: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Saves, "due", lambda self: False)
    with pytest.raises(Killed):
        make(tiny_vit, images, tmp_path, 2, reconstruction="gptq")
    assert list(tmp_path.iterdir()) == []
    answers = iter([False, False, True, False])
    monkeypatch.setattr(Saves, "due", lambda self: next(answers))
    with pytest.raises(Killed):
        make(tiny_vit, images, tmp_path, 4, reconstruction="gptq")
    assert {file.stem for file in tmp_path.iterdir()} == set(VIT[:3])


def test_removing_leaves_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "a.unfinished"
    folder.mkdir()
    Saves({}).write({folder / "image.head.safetensors": {"a": torch.zeros(1)}})
    (folder / ".image.head.safetensors.0123abcd.d4c-new").mkdir()
    for name in ("mine.safetensors", "thesis.txt"):
        (folder / name).touch()
    with pytest.raises(ArtifactError, match=r"mine\.safetensors is where d4c keeps unfinished work"):
        refuse_other_files(folder)
    remove_checkpoint(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["mine.safetensors", "thesis.txt"]
    for file in folder.iterdir():
        file.unlink()
    remove_checkpoint(folder)
    assert not folder.exists()
    remove_checkpoint(folder)
