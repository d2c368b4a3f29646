"""A calibration set on disk: the same bits, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from d4c.calibration.images import CalibrationSet, load_calibration
from d4c.errors import ArtifactError, DataError
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_record
from d4c.storage.files import sha256

BOX = torch.tensor([1, 0, 8, 7])
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


def make(n: int = 3, size: int = 8) -> CalibrationSet:
    pixels = torch.randn(n, 3, size, size)
    pixels[0, 0, 0, :3] = torch.tensor([-0.0, 1e-40, 3e38])
    targets = torch.tensor([0, -1, 1] + [0] * (n - 3))
    texts = ("a photo of a cat.", "a photo of a naïve 猫.")
    prompts = tuple("" if t < 0 else texts[t] for t in targets.tolist())
    provenance = {"mean": MEAN, "std": STD, "seed": 3, "loss": [[1, 0.5]]}
    return CalibrationSet(pixels, prompts, targets, texts, provenance, BOX.expand(n, 4))


def test_a_saved_set_comes_back_bit_for_bit(tmp_path: Path) -> None:
    one = make()
    one.save(tmp_path / "set")
    two = CalibrationSet.load(tmp_path / "set")
    assert torch.equal(one.pixels.view(torch.int32), two.pixels.view(torch.int32))
    assert torch.equal(one.targets, two.targets)
    assert two.boxes is not None
    assert torch.equal(two.boxes, BOX.expand(3, 4))
    assert (one.prompts, one.texts, one.provenance) == (two.prompts, two.texts, two.provenance)


def test_a_set_of_before_boxes_were_kept_loads(tmp_path: Path) -> None:
    replace(make(), boxes=None).save(tmp_path / "set")
    assert set(load_file(tmp_path / "set" / "calibration.safetensors")) == {"pixels", "targets"}
    assert CalibrationSet.load(tmp_path / "set").boxes is None


def test_the_pictures_on_disk_are_the_pixels_clipped_to_8_bits(tmp_path: Path) -> None:
    one = make()
    one.save(tmp_path / "set")
    mean, std = (np.array(v)[None, :, None, None] for v in (MEAN, STD))
    expected = (one.pixels.double().numpy() * std + mean).clip(0, 1) * 255
    for i in range(3):
        with Image.open(tmp_path / "set" / "images" / f"{i:03d}.png") as picture:
            assert np.abs(np.asarray(picture).transpose(2, 0, 1) - expected[i]).max() <= 0.501


def test_saving_again_replaces_the_set(tmp_path: Path) -> None:
    make(5).save(tmp_path)
    make(3).save(tmp_path)
    assert len(CalibrationSet.load(tmp_path)) == 3
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_other_peoples_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ArtifactError, match="is not a calibration set"):
        make().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        record = json.loads((folder / "provenance.json").read_text())
        change(record)
        (folder / "provenance.json").write_text(json.dumps(record))

    return attack


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "calibration.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "calibration.safetensors").write_bytes(data)


def rewrite(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Other tensors, with the hash that they should have."""

    def attack(folder: Path) -> None:
        tensors = load_file(folder / "calibration.safetensors")
        change(tensors)
        save_file(tensors, folder / "calibration.safetensors")
        edit(lambda r: r.update(sha256=sha256(folder / "calibration.safetensors")))(folder)

    return attack


ATTACKS: dict[str, Callable[[Path], object]] = {
    "no tensors": lambda f: (f / "calibration.safetensors").unlink(),
    "no record": lambda f: (f / "provenance.json").unlink(),
    "flipped bit": flip_a_bit,
    "truncated": lambda f: (f / "calibration.safetensors").write_bytes(b"\x00" * 20),
    "another tensor": rewrite(lambda t: t.update(masks=torch.zeros(3))),
    "no targets": rewrite(lambda t: t.pop("targets")),
    "box of nothing": rewrite(lambda t: t["boxes"].zero_()),
    "not json": lambda f: (f / "provenance.json").write_text("{"),
    "not utf-8": lambda f: (f / "provenance.json").write_bytes(b"\xff\xfe"),
    "json list": lambda f: (f / "provenance.json").write_text("[]"),
    "other format": edit(lambda r: r.update(format=2)),
    "missing field": edit(lambda r: r.pop("texts")),
    "prompt too few": edit(lambda r: r["prompts"].pop()),
    "prompt is a number": edit(lambda r: r["prompts"].__setitem__(0, 7)),
    "prompt of another target": edit(lambda r: r["prompts"].__setitem__(0, r["texts"][1])),
    "target outside texts": edit(lambda r: r["texts"].pop()),
    "std missing": edit(lambda r: r["provenance"].pop("std")),
    "std zero": edit(lambda r: r["provenance"].update(std=[0, 1, 1])),
    "mean of words": edit(lambda r: r["provenance"].update(mean=["a", "b", "c"])),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_damaged_set_is_refused_in_one_sentence(tmp_path: Path, attack: Callable[[Path], None]) -> None:
    make().save(tmp_path / "set")
    attack(tmp_path / "set")
    with pytest.raises(ArtifactError) as caught:
        CalibrationSet.load(tmp_path / "set")
    assert "\n" not in str(caught.value)


def draw_pictures(folder: Path) -> list[Path]:
    """Three pictures of several kinds, one of them in a sub-folder, and files that are not pictures."""
    (folder / "sub").mkdir(parents=True)
    files = [folder / "a.png", folder / "b.JPG", folder / "sub" / "c.png"]
    for file, mode, size in zip(files, ("RGB", "L", "RGBA"), ((70, 90), (64, 64), (200, 80)), strict=True):
        Image.effect_noise(size, 80).convert(mode).save(file)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._a.png").write_text("what another system leaves")
    return files


def test_own_pictures_are_what_the_model_makes_of_them(demo_vit: CLIP, tmp_path: Path) -> None:
    files = draw_pictures(tmp_path)
    made = CalibrationSet.from_pictures(demo_vit, [files[0], Image.open(files[1])])
    for pixels, file in zip(made.pixels, files, strict=False):
        assert torch.equal(pixels, demo_vit.preprocess(Image.open(file)))
    assert (made.prompts, made.targets.tolist(), made.texts, made.boxes) == (("", ""), [-1, -1], (), None)
    assert made.provenance["method"] == "pictures"
    assert made.provenance["pictures"] == ["a.png", ""]
    assert made.provenance["model"] == model_record(demo_vit)


def test_a_folder_of_pictures_and_a_saved_set_are_both_loaded(demo_vit: CLIP, tmp_path: Path) -> None:
    files = draw_pictures(tmp_path / "pictures")
    found = load_calibration(tmp_path / "pictures", demo_vit)
    assert torch.equal(found.pixels, CalibrationSet.from_pictures(demo_vit, files).pixels)
    found.save(tmp_path / "set")
    again = load_calibration(tmp_path / "set", demo_vit)
    assert torch.equal(again.pixels, found.pixels)
    assert again.provenance == found.provenance


def test_folders_without_pictures_are_refused(demo_vit: CLIP, tmp_path: Path) -> None:
    for folder, message in (("none", "is not a folder"), (".", "neither a calibration set nor pictures")):
        with pytest.raises(DataError, match=message):
            load_calibration(tmp_path / folder, demo_vit)
    with pytest.raises(DataError, match="no pictures to calibrate with, expected at least one"):
        CalibrationSet.from_pictures(demo_vit, [])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="does not decode as an image"):
        load_calibration(tmp_path, demo_vit)


def test_pictures_that_do_not_decode_are_left_out_of_a_folder_and_named(demo_vit: CLIP, tmp_path: Path) -> None:
    files = draw_pictures(tmp_path)
    (tmp_path / "b.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    with pytest.warns(UserWarning, match=r"1 picture was skipped: .*b\.heic does not decode .*it is HEIC"):
        found = load_calibration(tmp_path, demo_vit)
    assert found.provenance["pictures"] == [file.name for file in files]


MISFITS: dict[str, dict[str, Any]] = {
    "double": {"pixels": torch.zeros(3, 3, 8, 8).double()},
    "not square": {"pixels": torch.zeros(3, 3, 8, 7)},
    "gray": {"pixels": torch.zeros(3, 1, 8, 8)},
    "too few": {"pixels": torch.zeros(2, 3, 8, 8)},
    "nan": {"pixels": torch.full((3, 3, 8, 8), torch.nan)},
    "float targets": {"targets": torch.zeros(3)},
    "beyond texts": {"targets": torch.tensor([0, -1, 2])},
    "negative": {"targets": torch.tensor([0, -2, 1])},
    "no mean": {"provenance": {}},
    "float boxes": {"boxes": BOX.float().expand(3, 4)},
    "boxes too few": {"boxes": BOX.expand(2, 4)},
    "box beyond": {"boxes": torch.tensor([1, 0, 9, 8]).expand(3, 4)},
    "box before": {"boxes": torch.tensor([-1, 0, 6, 7]).expand(3, 4)},
    "box without rows": {"boxes": torch.tensor([2, 4, 5, 4]).expand(3, 4)},
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        replace(make(), **change)


def test_nothing_is_left_behind_when_saving_fails(tmp_path: Path) -> None:
    broken = replace(make(), provenance={"mean": MEAN, "std": STD, "what": object()})
    with pytest.raises(TypeError):
        broken.save(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
