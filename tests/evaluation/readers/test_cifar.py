"""CIFAR as distributed: both versions give the same images; the pickle reader runs nothing."""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d4c import DataError
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.readers.cifar import read_cifar, read_inert

RNG = np.random.default_rng(0)
FLAT = RNG.integers(0, 256, (3, 3072), dtype=np.uint8)
LABELS = [2, 0, 1]
NAMES = ["air_plane", "car", "bird"]


def write_binary(root: Path, classes: int) -> None:
    folder, test, names, header = {
        10: ("cifar-10-batches-bin", "test_batch.bin", "batches.meta.txt", []),
        100: ("cifar-100-binary", "test.bin", "fine_label_names.txt", [99]),
    }[classes]
    (root / folder).mkdir()
    rows = (bytes([*header, label]) + image.tobytes() for label, image in zip(LABELS, FLAT, strict=True))
    (root / folder / test).write_bytes(b"".join(rows))
    (root / folder / names).write_text("\n".join(NAMES) + "\n\n")


def write_python(root: Path, classes: int, protocol: int) -> None:
    folder, test, meta, prefix = {
        10: ("cifar-10-batches-py", "test_batch", "batches.meta", ""),
        100: ("cifar-100-python", "test", "meta", "fine_"),
    }[classes]
    (root / folder).mkdir()
    batch = {"data": FLAT, f"{prefix}labels": LABELS, "filenames": ["a", "b", "c"], "batch_label": b"test"}
    (root / folder / test).write_bytes(pickle.dumps(batch, protocol))
    (root / folder / meta).write_bytes(pickle.dumps({f"{prefix}label_names": NAMES, "num_vis": 3072}, protocol))


def check(root: Path, classes: int) -> None:
    dataset = load_dataset(f"cifar{classes}:{root}")
    assert (dataset.classes, dataset.labels.tolist()) == (("air plane", "car", "bird"), LABELS)
    for i, image in enumerate(FLAT):
        for y, x in ((0, 0), (31, 31), (5, 17)):
            assert dataset.image(i).getpixel((x, y)) == tuple(image[c * 1024 + y * 32 + x] for c in range(3))


@pytest.mark.parametrize("classes", [10, 100])
def test_binary_version(tmp_path: Path, classes: int) -> None:
    write_binary(tmp_path, classes)
    check(tmp_path, classes)
    check(next(tmp_path.iterdir()), classes)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_python_version(tmp_path: Path, classes: int, protocol: int) -> None:
    write_python(tmp_path, classes, protocol)
    check(tmp_path, classes)
    check(next(tmp_path.iterdir()), classes)


def python2_string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def test_python_version_as_python_2_wrote_it(tmp_path: Path) -> None:
    """The archive of 2009 holds Python 2's byte strings, which no Python 3 pickler writes."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        + python2_string(b"b")
        + b"\x87Rq\x03(K\x01K\x03M\x00\x0c\x86cnumpy\ndtype\nq\x04"
        + python2_string(b"u1")
        + b"K\x00K\x01\x87Rq\x05(K\x03"
        + python2_string(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + python2_string(FLAT.tobytes())
        + b"tb"
    )
    labels = b"](K\x02K\x00K\x01e"
    batch = b"\x80\x02}(" + python2_string(b"data") + array + python2_string(b"labels") + labels + b"u."
    names = b"](" + b"".join(python2_string(name.encode()) for name in NAMES) + b"e"
    (folder / "test_batch").write_bytes(batch)
    (folder / "batches.meta").write_bytes(b"\x80\x02}" + python2_string(b"label_names") + names + b"s.")
    assert pickle.loads(batch, encoding="latin1")["labels"] == LABELS
    check(tmp_path, 10)


class Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "attack",
    [
        lambda mark: Attack(os.mkdir, mark),
        lambda mark: Attack(eval, f"__import__('os').mkdir({mark!r})"),
        lambda mark: Attack(np.load, mark),
        lambda mark: Attack(getattr, np.ndarray, "tofile"),
    ],
    ids=["mkdir", "eval", "numpy", "getattr"],
)
def test_a_pickle_that_calls_is_refused_and_not_run(tmp_path: Path, protocol: int, attack: Any) -> None:
    mark = tmp_path / "ran"
    file = tmp_path / "batch"
    file.write_bytes(pickle.dumps({"data": attack(str(mark))}, protocol))
    with pytest.raises(DataError, match="nothing was run"):
        read_inert(file)
    assert not mark.exists()


HEAD = b"\x80\x02}U\x04data"


@pytest.mark.parametrize(
    "program",
    [
        HEAD + b"cnumpy\nndarray\nK\x01\x85Rs.",
        HEAD + b"cnumpy\ndtype\nU\x01O\x85Rs.",
        HEAD + b"c_codecs\nencode\nU\x01aU\x05utf-7\x86Rs.",
        HEAD + b"]K\x01\x85bs.",
        HEAD + b"(ios\nsystem\ns.",
        HEAD + b"\x82\x01s.",
        HEAD + b"U\x01aQs.",
    ],
    ids=["ndarray call", "object dtype", "codec", "build of a list", "INST", "EXT1", "persistent id"],
)
def test_known_names_in_unknown_roles_are_refused(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "batch").write_bytes(program)
    with pytest.raises(DataError, match="nothing was run"):
        read_inert(tmp_path / "batch")


def test_a_shape_without_end_is_refused(tmp_path: Path) -> None:
    """No message can hold tuples a thousand deep."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01" + b")" + b"\x85" * 5000
    array += b"cnumpy\ndtype\nU\x02u1\x85R\x89U\x01atb"
    (tmp_path / "batch").write_bytes(HEAD + array + b"s.")
    with pytest.raises(DataError, match="invalid shape"):
        read_inert(tmp_path / "batch")


@given(st.data())
def test_a_damaged_pickle_gives_a_dictionary_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = pickle.dumps({"data": FLAT[:1, :4], "labels": LABELS, "names": NAMES}, data.draw(st.sampled_from([2, 4])))
    bad = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for position in data.draw(st.lists(st.integers(0, max(len(bad) - 1, 0)), max_size=4)):
        if bad:
            bad[position] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(bad)
    with suppress(DataError):
        assert isinstance(read_inert(file), dict)


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({"labels": LABELS}, "no array 'data'"),
        ({"data": FLAT}, "no list 'labels'"),
        ({"data": FLAT, "labels": ["x"] * 3}, "no list 'labels'"),
        ({"data": FLAT, "labels": [0, 1, 1 << 70]}, "no list 'labels'"),
        ({"data": FLAT, "labels": LABELS[:2]}, r"shape \(3, 3072\)"),
        ({"data": FLAT[:, :9], "labels": LABELS}, r"shape \(3, 9\)"),
        ({"data": FLAT.astype(np.float32), "labels": LABELS}, "pickle"),
        ([1, 2], "holds list"),
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path: Path, batch: Any, sentence: str) -> None:
    write_python(tmp_path, 10, 2)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match=sentence):
        read_cifar(tmp_path, 10)


def test_names_of_another_form_are_refused(tmp_path: Path) -> None:
    write_python(tmp_path, 10, 2)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps({"label_names": [1]}, 2))
    with pytest.raises(DataError, match="no list 'label_names'"):
        read_cifar(tmp_path, 10)


@pytest.mark.parametrize("write", [write_binary, lambda root, classes: write_python(root, classes, 2)])
def test_missing_names_are_reported(tmp_path: Path, write: Any) -> None:
    write(tmp_path, 10)
    for file in tmp_path.rglob("batches.meta*"):
        file.unlink()
    with pytest.raises(DataError, match="expected the class names there"):
        read_cifar(tmp_path, 10)


def test_a_cut_binary_file_is_refused(tmp_path: Path) -> None:
    write_binary(tmp_path, 10)
    file = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="has 9218 bytes, expected a multiple of 3073"):
        read_cifar(tmp_path, 10)


def test_an_empty_folder_names_both_versions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither cifar-100-binary/test.bin nor cifar-100-python/test"):
        read_cifar(tmp_path, 100)
