"""Every layout of files is read, and every way in which it can be wrong ends in one sentence."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d4c import DataError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.readers.words.class_names import names_from
from d4c.models.clip import CLIP
from d4c.templates import EMOJI_TEMPLATES, PHOTO_TEMPLATES

COLORS = ["red", "lime", "blue", "gray", "olive"]


def plain(color: str) -> Image.Image:
    return Image.new("RGB", (6, 5), color)


def encoded(color: str) -> bytes:
    stream = io.BytesIO()
    plain(color).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, metadata: dict[str, str] | None, **columns: Any) -> str:
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return f"parquet:{path}"


def color_of(dataset: Dataset, i: int) -> tuple[int, ...]:
    return tuple(np.asarray(dataset.image(i).convert("RGB"))[0, 0].tolist())


def test_demo_pack_has_one_picture_per_class_without_transparency() -> None:
    demo = load_dataset("demo")
    assert len(demo) == len(set(demo.classes)) == 496
    assert demo.labels.tolist() == list(range(496))
    assert demo.templates == EMOJI_TEMPLATES
    assert demo.image(0).mode == "RGB"
    assert demo.image(0).getpixel((0, 0)) == (255, 255, 255)


def test_parquet_rows_keep_order_labels_and_names(tmp_path: Path) -> None:
    names = json.dumps(["warm", "cold"])
    spec = write_parquet(
        tmp_path / "a.parquet", {"classes": names}, image=[encoded(c) for c in COLORS[:3]], label=[0, 1, 1]
    )
    dataset = load_dataset(spec)
    assert (dataset.classes, dataset.labels.tolist()) == (("warm", "cold"), [0, 1, 1])
    assert dataset.templates == PHOTO_TEMPLATES
    assert [color_of(dataset, i) for i in range(3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


GOOD = {"image": [encoded("red")], "label": [0]}
NAMES = {"classes": '["x"]'}


@pytest.mark.parametrize(
    ("metadata", "columns", "sentence"),
    [
        (NAMES, {"label": [0]}, "expected 'image' with encoded image bytes"),
        (NAMES, GOOD | {"image": ["text"]}, "expected 'image' with encoded image bytes"),
        (NAMES, {"image": [encoded("red")]}, "expected 'label' with integers"),
        (NAMES, GOOD | {"label": ["x"]}, "expected 'label' with integers"),
        (NAMES, {"image": [b"", b""], "label": [0, None]}, "no missing value"),
        (None, GOOD, "has no class names"),
        ({"classes": "x, y"}, GOOD, "has no class names"),
        ({"classes": "[1]"}, GOOD, "has no class names"),
        ({"classes": "[]"}, GOOD, "has no classes"),
        (NAMES, {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int16())}, "has no images"),
        (NAMES, GOOD | {"label": [1]}, "row 0 of .* has label 1, expected 0 to 0"),
        (NAMES, GOOD | {"label": [-1]}, "has label -1, expected 0 to 0"),
    ],
)
def test_wrong_parquet_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None, columns: dict[str, Any], sentence: str
) -> None:
    spec = write_parquet(tmp_path / "a.parquet", metadata, **columns)
    with pytest.raises(DataError, match=sentence):
        load_dataset(spec)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_dataset(f"parquet:{tmp_path / 'a.parquet'}")


def write_hub(path: Path, column: str = "image", label: str = "label", **columns: Any) -> None:
    """A file as Hugging Face's `datasets` writes it."""
    names = {"names": ["warm", "very_cold"], "_type": "ClassLabel"}
    features = {column: {"_type": "Image"}, label: names, "texts": [{"dtype": "string", "_type": "Value"}]}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": encoded(color), "path": "x"} for color in COLORS[:2]], kind)
    path.parent.mkdir(exist_ok=True, parents=True)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write_parquet(path, metadata, **{column: images, label: pa.array([1, 0]), "texts": [["a"], ["b"]]} | columns)


@pytest.mark.parametrize(("column", "label"), [("image", "label"), ("img", "fine_label"), ("picture", "kind")])
def test_hub_datasets_say_which_columns_hold_what(tmp_path: Path, column: str, label: str) -> None:
    write_hub(tmp_path / "a.parquet", column, label)
    dataset = load_dataset(f"parquet:{tmp_path / 'a.parquet'}")
    assert (dataset.classes, dataset.labels.tolist()) == (("warm", "very cold"), [1, 0])
    assert [color_of(dataset, i) for i in range(2)] == [(255, 0, 0), (0, 255, 0)]


def test_of_a_hub_folder_the_test_split_is_read_in_order(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00002", "test-00001-of-00002"):
        write_hub(tmp_path / "data" / f"{name}.parquet")
    assert load_dataset(f"parquet:{tmp_path}").labels.tolist() == [1, 0, 1, 0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        load_dataset(f"parquet:{tmp_path / 'empty'}")


def test_features_of_another_form_are_not_followed(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": [1], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    with pytest.raises(DataError, match="has no class names"):
        load_dataset(write_parquet(tmp_path / "a.parquet", metadata, **GOOD))


@pytest.mark.parametrize("cut", [0, 20, 45])
def test_an_image_that_does_not_decode_is_named(tmp_path: Path, demo_vit: CLIP, cut: int) -> None:
    image = [encoded("red"), encoded("red")[:cut]]
    dataset = load_dataset(write_parquet(tmp_path / "a.parquet", NAMES, image=image, label=[0, 0]))
    with pytest.raises(DataError, match=r"row 1 of .*a\.parquet does not decode"):
        list(pixel_batches(dataset, demo_vit.preprocess, 2))


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train/cat": ["a.png"], "train/dog": ["b.png"], "val/cat": ["c.png"], "val/dog": ["d.png"]})
    with pytest.raises(DataError, match=rf"is divided into train, val, .*such as folder:{tmp_path}/val"):
        load_dataset(f"folder:{tmp_path}")
    assert load_dataset(f"folder:{tmp_path / 'val'}").classes == ("cat", "dog")


def test_a_train_is_a_class_among_others(tmp_path: Path) -> None:
    write_tree(tmp_path, {"bus": ["a.png"], "train": ["b.png"]})
    assert load_dataset(f"folder:{tmp_path}").classes == ("bus", "train")


UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    "HEIC": ("a.heic", b"\x00\x00\x00\x18ftypheic", "None of the 1 pictures in .*dog can be used .*it is HEIC"),
    "PostScript": ("a.jpg", b"%!PS-Adobe", "None of the 1 pictures in .*dog can be used .*it is PostScript"),
    "empty": ("a.png", b"", "None of the 1 pictures in .*dog can be used .*it is empty"),
    "other files": ("a.cr2", b"raw", "dog holds files and none of them is a picture"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_class_without_a_readable_picture_is_refused_before_any_work(tmp_path: Path, case: str) -> None:
    name, content, message = UNREADABLE[case]
    write_tree(tmp_path, {"cat": ["a.png"], "dog": []})
    (tmp_path / "dog" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(f"folder:{tmp_path}")


def test_pictures_are_told_by_their_beginning_and_pipes_are_left_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": ["a.png", "photo.jpg_large", "b.jfif"]})
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "folder.png").mkdir()
    assert [Path(load_dataset(f"folder:{tmp_path}").location(i)).name for i in range(3)] == [
        "a.png",
        "b.jfif",
        "photo.jpg_large",
    ]


def test_names_that_are_not_text_are_classes_too(tmp_path: Path, demo_vit: CLIP) -> None:
    write_tree(tmp_path, {os.fsdecode(b"caf\xe9"): ["a.png"], "tea": ["a.png"]})
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("caf\ufffd", "tea")
    assert demo_vit.tokenize(dataset.classes).shape == (2, 77)


def write_tree(root: Path, tree: dict[str, list[str]]) -> None:
    for folder, files in tree.items():
        (root / folder).mkdir(parents=True)
        for i, name in enumerate(files):
            plain(COLORS[i]).save(root / folder / name, "PNG")


def test_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    write_tree(tmp_path, {"polar_bear": ["b.png", "a.JPEG"], "cat": ["c.png"], ".cache": ["d.png"]})
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert (dataset.classes, dataset.labels.tolist()) == (("cat", "polar bear"), [0, 1, 1])
    assert [color_of(dataset, i) for i in range(3)] == [(255, 0, 0), (0, 255, 0), (255, 0, 0)]


def test_classes_txt_gives_folders_other_names(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": ["1.png"], "b": ["1.png"]})
    (tmp_path / "classes.txt").write_text("Käse\n\nbread\n", encoding="utf-8")
    assert load_dataset(f"folder:{tmp_path}").classes == ("Käse", "bread")


@pytest.mark.parametrize(
    ("names", "sentence"), [(b"one\n", "names 1 classes, expected 2"), (b"\xff\xfe\n", "is not UTF-8 text")]
)
def test_wrong_classes_txt_is_refused(tmp_path: Path, names: bytes, sentence: str) -> None:
    write_tree(tmp_path, {"a": ["1.png"], "b": ["1.png"]})
    (tmp_path / "classes.txt").write_bytes(names)
    with pytest.raises(DataError, match=sentence):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize(("tree", "sentence"), [({}, "holds no folders"), ({"a": []}, "has no images")])
def test_folders_without_content_are_refused(tmp_path: Path, tree: dict[str, list[str]], sentence: str) -> None:
    write_tree(tmp_path, tree)
    with pytest.raises(DataError, match=sentence):
        load_dataset(f"folder:{tmp_path}")


WNIDS = [f"n{i:08d}" for i in range(1000)]


def by_classes_txt(root: Path) -> None:
    (root / "classes.txt").write_text("".join(f"thing {i}\n" for i in range(1000)))


def by_synset_mapping(root: Path) -> None:
    text = "".join(f"{wnid} thing {i}, other word\n" for i, wnid in enumerate(WNIDS))
    (root / "LOC_synset_mapping.txt").write_text(text)


def by_class_index(root: Path) -> None:
    (root / "imagenet_class_index.json").write_text(json.dumps({i: [w, f"thing_{i}"] for i, w in enumerate(WNIDS)}))


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for wnid in WNIDS:
        (tmp_path / "val" / wnid).mkdir(parents=True)
    for wnid, color in ((WNIDS[3], "red"), (WNIDS[999], "blue")):
        plain(color).save(tmp_path / "val" / wnid / "ILSVRC2012_val_1.JPEG")
    return tmp_path


@pytest.mark.parametrize("name_file", [by_classes_txt, by_synset_mapping, by_class_index])
def test_imagenet_names_come_from_any_of_the_usual_files(imagenet: Path, name_file: Callable[[Path], None]) -> None:
    name_file(imagenet)
    dataset = load_dataset(f"imagenet1k:{imagenet}")
    assert dataset.labels.tolist() == [3, 999]
    assert dataset.classes == tuple(f"thing {i}" for i in range(1000))


def test_imagenet_names_are_distinct_where_the_usual_files_repeat_themselves(tmp_path: Path) -> None:
    rows = {"n02012849": "crane", "n03126707": "crane", "n02113186": "Cardigan, Cardigan Welsh corgi"}
    rows |= {"n02963159": "cardigan", "n03710637": "maillot", "n03710721": "maillot, tank suit"}
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in rows.items()))
    names = names_from(tmp_path, sorted(rows))
    assert names is not None
    assert len({name.lower() for name in names.values()}) == len(rows)


def test_imagenet_without_names_is_refused(imagenet: Path) -> None:
    with pytest.raises(
        DataError, match=r"WordNet ids such as n01440764 and no file there names them, expected classes\.txt"
    ):
        load_dataset(f"imagenet1k:{imagenet}")


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("classes.txt", "only one\n", "names 1 classes, expected 1000"),
        ("LOC_synset_mapping.txt", "n00000000 tench, Tinca\n", "names 1 classes, and n00000001 has no name"),
        ("imagenet_class_index.json", "[]", "expected"),
        ("imagenet_class_index.json", '{"0": 3}', "expected"),
    ],
)
def test_imagenet_with_wrong_names_is_refused(imagenet: Path, file: str, text: str, sentence: str) -> None:
    (imagenet / file).write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_dataset(f"imagenet1k:{imagenet}")


def test_imagenet_without_val_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folders val/<wnid>"):
        load_dataset(f"imagenet1k:{tmp_path}")
