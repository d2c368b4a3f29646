"""Folders that are called by WordNet ids get names from any of the usual files, and are refused without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from d4c import DataError
from d4c.evaluation.load_dataset import load_dataset
from d4c.run.origins import data_origin

IDS = ("n01440764", "n02012849", "n02113186")
NAMES = ("tench", "crane bird", "Cardigan Welsh corgi")
SYNONYMS = ("tench, Tinca tinca", "crane", "Cardigan, Cardigan Welsh corgi")
OTHER = ("n03126707", "crane")
"""A class without a folder, as where somebody has a part of ImageNet."""

FILES = {
    "classes.txt": "\n".join(NAMES),
    "classnames.txt": "\n".join(NAMES),
    "LOC_synset_mapping.txt": "\n".join(map(" ".join, [*zip(IDS, SYNONYMS, strict=True), OTHER])),
    "synset_words.txt": "\n".join(map(" ".join, zip(IDS, SYNONYMS, strict=True))),
    "words.txt": "\n".join(map("\t".join, zip(IDS, SYNONYMS, strict=True))),
    "imagenet_class_index.json": json.dumps(dict(enumerate([*zip(IDS, SYNONYMS[:1] + NAMES[1:], strict=True), OTHER]))),
}
FILES["imagenet_class_index.json"] = FILES["imagenet_class_index.json"].replace("tench, Tinca tinca", "tench")


@pytest.fixture
def synsets(tmp_path: Path) -> Path:
    for name in IDS:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "val" / name / "picture.png")
    return tmp_path / "val"


@pytest.mark.parametrize("name", FILES)
def test_names_come_from_any_of_the_usual_files(synsets: Path, name: str) -> None:
    (synsets / name).write_text(FILES[name])
    assert load_dataset(f"folder:{synsets}").classes == NAMES


def test_files_by_id_are_found_beside_the_split_and_count_as_its_content(synsets: Path) -> None:
    spec = f"folder:{synsets}"
    before = data_origin(spec)
    (synsets.parent / "LOC_synset_mapping.txt").write_text(FILES["LOC_synset_mapping.txt"])
    assert load_dataset(spec).classes == NAMES
    assert data_origin(spec) != before


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (None, "", "called by WordNet ids such as n01440764 and no file there names them, .* put one of them there"),
        ("LOC_synset_mapping.txt", f"{IDS[0]} tench\n", f"{IDS[1]} has no name in the file of class names"),
        ("words.txt", "a\nb\nc\n", "is no list of WordNet ids and names"),
        ("classnames.txt", "a\nb\n", "names 2 classes, expected 3, one for each folder"),
    ],
)
def test_ids_without_names_are_refused_in_one_sentence(
    synsets: Path, name: str | None, text: str, sentence: str
) -> None:
    if name is not None:
        (synsets / name).write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_dataset(f"folder:{synsets}")


def test_other_folders_do_not_care_for_files_by_id(tmp_path: Path) -> None:
    (tmp_path / "big_cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "big_cat" / "picture.png")
    (tmp_path / "words.txt").write_text("not a list of ids\n")
    assert load_dataset(f"folder:{tmp_path}").classes == ("big cat",)
