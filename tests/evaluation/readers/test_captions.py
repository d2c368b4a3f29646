"""Every form of captions gives the same dataset, and every way in which it can be wrong ends in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from d4c import DataError
from d4c.evaluation.dataset import CaptionedDataset
from d4c.evaluation.load_dataset import load_pictures
from d4c.run.origins import data_origin

CAPTIONS = {"a.jpg": ["A red  square, plain.", "Red."], "b.jpg": ["A blue square."]}
PAIRS = [(name, text) for name, texts in CAPTIONS.items() for text in texts]
LEFT_OUT = {"filename": "z.jpg", "split": "train", "sentences": [{"raw": "Left out."}]}


def separated(mark: str) -> str:
    return "\n".join([f"filepath{mark}title{mark}url", *(f'{name}{mark}"{text}"{mark}x' for name, text in PAIRS)])


def karpathy(**more: str) -> str:
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts], **more}
        for name, texts in CAPTIONS.items()
    ]
    return json.dumps({"images": [LEFT_OUT, *images], "dataset": "x"})


FORMS: dict[str, tuple[str, str, Callable[[], str]]] = {
    "csv": ("captions", "a.csv", lambda: separated(",")),
    "tsv": ("captions", "a.tsv", lambda: separated("\t")),
    "jsonl": (
        "captions",
        "a.jsonl",
        lambda: "\n".join(json.dumps({"filepath": n, "title": t if len(t) > 1 else t[0]}) for n, t in CAPTIONS.items()),
    ),
    "karpathy": ("karpathy", "dataset.json", karpathy),
    "flickr tokens": (
        "flickr",
        "a.token",
        lambda: "\n".join(f"{name}#{i}\t{text}" for name, texts in CAPTIONS.items() for i, text in enumerate(texts)),
    ),
    "flickr captions": ("flickr", "c.txt", lambda: "image,caption\n" + "\n".join(f"{n},{t}" for n, t in PAIRS)),
    "flickr results": (
        "flickr",
        "results.csv",
        lambda: "image_name| comment_number| comment\n" + "\n".join(f"{n}| 0| {t}" for n, t in PAIRS),
    ),
}


def draw(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in (("a.jpg", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (8, 8), color).save(folder / name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("folder", ["", "images"])
def test_every_form_gives_the_same_pairs(tmp_path: Path, form: str, folder: str) -> None:
    kind, name, text = FORMS[form]
    draw(tmp_path / folder)
    (tmp_path / name).write_text(text())
    dataset = load_pictures(f"{kind}:{tmp_path / name}")
    assert isinstance(dataset, CaptionedDataset)
    assert dataset.captions == (("A red square, plain.", "Red."), ("A blue square.",))
    assert dataset.image(1).getpixel((4, 4))[2] > 200  # type: ignore[index]


def test_coco_names_a_folder(tmp_path: Path) -> None:
    draw(tmp_path / "val2014")
    (tmp_path / "dataset_coco.json").write_text(karpathy(filepath="val2014"))
    assert len(load_pictures(f"karpathy:{tmp_path / 'dataset_coco.json'}")) == 2


@pytest.mark.parametrize(
    ("kind", "name", "text", "sentence"),
    [
        ("captions", "a.csv", "file,title\na.jpg,x", r"Row 1 .* has the columns \(file, title\), expected filepath"),
        ("captions", "a.csv", "filepath,title\na.jpg", "Row 1 of"),
        ("captions", "a.csv", "", "holds no captions"),
        ("captions", "a.txt", "x", "ends in '.txt', expected .csv, .tsv or .jsonl"),
        ("captions", "a.jsonl", '{"filepath": 1, "title": "x"}', "line 1 of .*filepath is 1"),
        ("captions", "a.jsonl", '{"filepath": "a.jpg", "title": []}', "title is a list"),
        ("captions", "a.csv", "filepath,title\na.jpg,", "has no caption or a blank one"),
        ("captions", "a.csv", "filepath,title\nq.jpg,x", "The picture 'q.jpg' of .* does not exist"),
        ("captions", "a.csv", "filepath,title\n" + "q" * 5000 + ",x", "does not exist"),
        ("karpathy", "a.json", '{"images": [{"filename": "a.jpg"}]}', r"images\[0\].split is missing"),
        ("karpathy", "a.json", json.dumps({"images": [LEFT_OUT]}), "holds no captions"),
        ("flickr", "a.txt", "a.jpg and nothing", "Line 1 of .* is 'a.jpg and nothing', expected a picture"),
    ],
)
def test_other_forms_are_refused(tmp_path: Path, kind: str, name: str, text: str, sentence: str) -> None:
    draw(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_pictures(f"{kind}:{tmp_path / name}")


def test_a_picture_that_was_replaced_makes_another_dataset(tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "a.csv").write_text(separated(","))
    spec = f"captions:{tmp_path / 'a.csv'}"
    first = data_origin(spec)
    assert first == data_origin(spec)
    Image.new("RGB", (8, 8), "lime").save(tmp_path / "b.jpg")
    assert data_origin(spec) not in (first, None)
