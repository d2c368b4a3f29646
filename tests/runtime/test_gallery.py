"""A gallery is what its folder holds, whatever was kept from before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d4c.errors import ArtifactError, DataError
from d4c.runtime import gallery as gallery_module
from d4c.runtime.gallery import DEFAULT_NAME, Gallery, open_gallery
from d4c.runtime.queries import word_query
from d4c.runtime.runtime_clip import RuntimeCLIP


def assert_equal(a: Gallery, b: Gallery) -> None:
    assert a.paths == b.paths
    assert np.allclose(a.embeddings, b.embeddings, atol=1e-5)


def test_visible_pictures_are_found_wherever_they_lie(model: RuntimeCLIP, pictures: Path) -> None:
    found = open_gallery(model, pictures)
    assert len(found.paths) == found.embedded == 10
    assert list(found.paths) == sorted(found.paths)
    assert sum(path.startswith("below/") for path in found.paths) == 2
    assert not any("secret" in path or "away" in path for path in found.paths)
    assert np.allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)


def test_what_is_kept_is_what_would_be_made(model: RuntimeCLIP, pictures: Path) -> None:
    first = open_gallery(model, pictures)
    written = (pictures / DEFAULT_NAME).stat().st_mtime_ns
    again = open_gallery(model, pictures)
    assert again.embedded == 0
    assert np.array_equal(again.embeddings, first.embeddings)
    assert (pictures / DEFAULT_NAME).stat().st_mtime_ns == written


def add(folder: Path) -> None:
    Image.effect_noise((30, 40), 60).save(folder / "new.jpg")


def change(folder: Path) -> None:
    Image.effect_noise((30, 40), 60).save(next(folder.glob("*.png")))


def rename(folder: Path) -> None:
    next(folder.glob("*.png")).rename(folder / "renamed.png")


def remove(folder: Path) -> None:
    next(folder.glob("*.png")).unlink()


@pytest.mark.parametrize(
    ("apply", "embedded"), [(add, 1), (change, 1), (rename, 1), (remove, 0)], ids=["add", "change", "rename", "remove"]
)
def test_an_update_is_a_new_gallery(
    apply: Callable[[Path], None], embedded: int, model: RuntimeCLIP, pictures: Path, tmp_path: Path
) -> None:
    open_gallery(model, pictures)
    apply(pictures)
    updated = open_gallery(model, pictures)
    assert updated.embedded == embedded
    assert_equal(updated, open_gallery(model, pictures, tmp_path / "fresh.npz"))
    assert open_gallery(model, pictures).embedded == 0


def test_a_later_time_counts_as_a_change(model: RuntimeCLIP, pictures: Path) -> None:
    open_gallery(model, pictures)
    file = next(pictures.glob("*.png"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert open_gallery(model, pictures).embedded == 1


def test_another_model_makes_everything_anew(
    model: RuntimeCLIP, pictures: Path, copy: Path, sign: Callable[[Path], None]
) -> None:
    open_gallery(model, pictures)
    constants = json.loads((copy / "preprocessor_config.json").read_text())
    constants["image_mean"] = [0.1, 0.2, 0.3]
    (copy / "preprocessor_config.json").write_text(json.dumps(constants))
    sign(copy)
    assert open_gallery(RuntimeCLIP(copy), pictures).embedded == 10


def test_what_does_not_decode_is_skipped_and_named(model: RuntimeCLIP, pictures: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"x")
    (pictures / "empty.png").touch()
    for _ in range(2):
        found = open_gallery(model, pictures)
        assert len(found.paths) == 10
        assert set(found.skipped) == {"broken.jpg", "empty.png"}
        assert found.skipped["broken.jpg"].startswith("broken.jpg does not decode as an image")


def test_other_formats_are_read_or_named_and_pipes_do_not_block(model: RuntimeCLIP, pictures: Path) -> None:
    picture = Image.new("RGB", (30, 20), "red")
    picture.save(pictures / "a.jp2")
    picture.save(pictures / "b.jfif", "JPEG")
    picture.save(pictures / "c.jpg_large", "PNG")
    (pictures / "d.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    (pictures / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    os.mkfifo(pictures / "f.png")
    found = open_gallery(model, pictures)
    assert {"a.jp2", "b.jfif", "c.jpg_large"} < set(found.paths)
    assert set(found.skipped) == {"d.heic", "e.jpg"}


def test_a_turned_picture_is_embedded_upright(model: RuntimeCLIP, pictures: Path) -> None:
    upright = Image.open(next(pictures.glob("*.png"))).convert("RGB").resize((64, 96))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(pictures / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(pictures / "turned.png", exif=exif)
    found = open_gallery(model, pictures)
    assert found.embeddings[found.paths.index("upright.png")] == pytest.approx(
        found.embeddings[found.paths.index("turned.png")], abs=1e-6
    )


def test_a_stopped_update_goes_on_where_it_was(
    model: RuntimeCLIP, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "BATCH", 2)
    monkeypatch.setattr(gallery_module, "SAVE_EVERY", 1)

    def stop(done: int, total: int) -> None:
        assert total == 10
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_gallery(model, pictures, progress=stop)
    assert open_gallery(model, pictures).embedded == 4


def test_a_place_for_embeddings_that_cannot_be_written_is_named_before_the_work(
    model: RuntimeCLIP, pictures: Path
) -> None:
    done: list[int] = []
    with pytest.raises(ArtifactError, match=r"/proc/x\.npz cannot be written .*name a file for .* with --embeddings"):
        open_gallery(model, pictures, "/proc/x.npz", progress=lambda step, _: done.append(step))
    assert done == []


def test_an_embedding_that_is_not_finite_is_skipped_and_named(
    model: RuntimeCLIP, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = RuntimeCLIP.encode_image

    def broken(self: RuntimeCLIP, pixels: Any) -> Any:
        rows = encode(self, pixels)
        rows[0] = np.nan
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(RuntimeCLIP, "encode_image", broken)
        gallery = open_gallery(model, pictures)
    (name,) = gallery.skipped
    assert gallery.skipped[name].startswith(f"{name} has an embedding that is not finite")
    assert len(gallery.paths) == 9
    assert open_gallery(model, pictures).embedded == 1


def test_names_that_are_no_text_are_pictures_too(model: RuntimeCLIP, pictures: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copyfile(next(pictures.glob("*.png")), pictures / name)
    assert name in open_gallery(model, pictures).paths
    assert open_gallery(model, pictures).embedded == 0


def test_folders_without_pictures_are_refused(model: RuntimeCLIP, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone is not a folder"):
        open_gallery(model, tmp_path / "gone")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no pictures, expected files that end in \.jpg"):
        open_gallery(model, tmp_path)
    (tmp_path / "broken.jpg").touch()
    with pytest.raises(DataError, match=r"None of the 1 pictures .* \(broken\.jpg does not decode"):
        open_gallery(model, tmp_path)
    assert not (tmp_path / DEFAULT_NAME).exists()


def test_a_search_orders_by_cosine(model: RuntimeCLIP, pictures: Path) -> None:
    found = open_gallery(model, pictures)
    query = word_query(model, "a yellow face")
    matches = found.search(query, top=99)
    text = model.encode_text(model.tokenize("a yellow face"))[0]
    scores = dict(zip(found.paths, found.embeddings @ text / np.linalg.norm(text), strict=True))
    assert {match.path: match.score for match in matches} == pytest.approx(scores, abs=1e-6)
    assert matches == sorted(matches, key=lambda match: -match.score)
    assert found.search(query, top=3) == matches[:3]


def test_of_equal_matches_the_first_by_name_comes_first(model: RuntimeCLIP, pictures: Path) -> None:
    found = open_gallery(model, pictures)
    alike = replace(found, embeddings=np.repeat(found.embeddings[:1], 10, axis=0))
    assert [match.path for match in alike.search(word_query(model, "tree"))] == list(found.paths)
