"""The layout of CLIP_benchmark, and every way in which it can be wrong."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d4c import DataError
from d4c.evaluation.dataset import CaptionedDataset, Dataset, TaggedDataset
from d4c.evaluation.load_dataset import load_dataset, load_pictures
from d4c.run.origins import data_origin

Sample = dict[str, bytes]


def picture(color: str, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), color).save(stream, form)
    return stream.getvalue()


def array(values: list[int]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


SAMPLES: list[Sample] = [
    {"0001.webp": picture("red", "WEBP"), "0001.cls": b"1"},
    {"sub/0002.x.png": b"other", "0002.png": picture("lime"), "0002.cls": b"0\n"},
    {"0003.jpg": picture("blue", "JPEG"), "0003.cls": b"1", "0003.json": b"{}"},
]


def write(root: Path, samples: list[Sample], kind: str | None = None) -> str:
    """Two shards: the first sample, and the others."""
    (root / "test").mkdir(exist_ok=True)
    (root / "test" / "nshards.txt").write_text("2")
    for number, part in enumerate((samples[:1], samples[1:])):
        with tarfile.open(root / "test" / f"{number}.tar", "w") as archive:
            for name, content in ((name, content) for sample in part for name, content in sample.items()):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    (root / "classnames.txt").write_text("cat\ndog\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n{c} \n")
    if kind:
        (root / "dataset_type.txt").write_text(kind)
    return f"wds:{root}"


CLASSES = [SAMPLES[0], {k: v for k, v in SAMPLES[1].items() if "sub" not in k}, SAMPLES[2]]


def test_classes_keep_the_order_of_the_shards(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, CLASSES))
    assert isinstance(dataset, Dataset)
    assert (dataset.classes, dataset.labels.tolist()) == (("cat", "dog"), [1, 0, 1])
    assert (dataset.templates, dataset.verbatim) == (("a photo of a {}.", "{}"), True)
    colors = [np.asarray(dataset.image(i)).mean((0, 1)).argmax() for i in range(3)]
    assert colors == [0, 1, 2]
    assert dataset.location(1) == f"0002.png in {tmp_path}/test/1.tar"


def test_tags_are_numbers_for_each_class(tmp_path: Path) -> None:
    samples = [{f"{i}.png": picture("red"), f"{i}.npy": array(tags)} for i, tags in enumerate([[1, 0], [1, 1]])]
    dataset = load_pictures(write(tmp_path, samples, "multilabel\n"))
    assert isinstance(dataset, TaggedDataset)
    assert dataset.tags.tolist() == [[True, False], [True, True]]


def test_captions_are_lines(tmp_path: Path) -> None:
    samples = [
        {f"{i}.png": picture("red"), f"{i}.txt": text} for i, text in enumerate([b"A cat.\n\nA pet.", b"A dog."])
    ]
    dataset = load_pictures(write(tmp_path, samples, "retrieval"))
    assert isinstance(dataset, CaptionedDataset)
    assert dataset.captions == (("A cat.", "A pet."), ("A dog.",))
    assert dataset.owners.tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="have captions, expected one class each"):
        load_dataset(f"wds:{tmp_path}")


@pytest.mark.parametrize(
    ("samples", "kind", "sentence"),
    [
        ([{"a.cls": b"1"}, *CLASSES], None, "The sample of a.cls in .*0.tar has cls, expected one of webp"),
        ([{"a.png": b"1"}, *CLASSES], None, "has png, expected one of webp, png, jpg, jpeg with cls"),
        ([SAMPLES[0] | {"0001.cls": b"one"}], None, "0001.cls in .* holds b'one', expected a number"),
        ([SAMPLES[0] | {"0001.cls": b"2"}], None, "has label 2, expected 0 to 1"),
        ([{"a.png": b"", "a.npy": array([1])}], "multilabel", "does not hold 2 numbers"),
        ([{"a.png": b"", "a.npy": b"PK"}], "multilabel", "a.npy in .* is not an array"),
        ([{"a.png": b"", "a.txt": b" "}], "retrieval", "has no caption or a blank one"),
        (CLASSES, "captioning", "says 'captioning', expected classification, multilabel, retrieval"),
    ],
)
def test_wrong_samples_are_refused(tmp_path: Path, samples: list[Sample], kind: str | None, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        load_pictures(write(tmp_path, samples, kind))


def test_missing_and_cut_shards_are_refused(tmp_path: Path) -> None:
    spec = write(tmp_path, CLASSES)
    shard = tmp_path / "test" / "1.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"1\.tar cannot be read as a tar file"):
        load_dataset(spec)
    shard.unlink()
    with pytest.raises(DataError, match=r"1\.tar does not exist, but .*nshards.txt counts 2"):
        load_dataset(spec)
    (tmp_path / "test" / "nshards.txt").write_text("many")
    with pytest.raises(DataError, match="holds b'many', expected a number from 0 to 100000"):
        load_dataset(spec)
    (tmp_path / "test" / "nshards.txt").unlink()
    with pytest.raises(DataError, match="give the folder that holds test"):
        load_dataset(spec)


def test_other_pictures_are_another_dataset(tmp_path: Path) -> None:
    spec = write(tmp_path, CLASSES)
    first = data_origin(spec)
    (tmp_path / "README").write_text("not read")
    assert data_origin(spec) == first
    write(tmp_path, [CLASSES[0] | {"0001.webp": picture("gray", "WEBP")}, *CLASSES[1:]])
    assert data_origin(spec) != first
