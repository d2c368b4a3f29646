"""The file of embeddings: what goes in comes out, and anything else is refused and kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d4c.errors import DataError
from d4c.runtime.embeddings import Entries, Entry, Stamp, read_entries, write_entries
from d4c.zeroshot.classification import unit_rows

# Names of files may hold bytes that are no text, which Python gives as lone surrogates; none ends in NUL.
NAMES = st.text(st.characters(exclude_characters="\x00"), min_size=1, max_size=20)
STAMPS = st.builds(Stamp, st.integers(0, 2**62), st.integers(-(2**62), 2**62))


def entries_of(stamps: dict[str, Stamp]) -> Entries:
    rng = np.random.default_rng(len(stamps))
    rows = unit_rows(rng.standard_normal((len(stamps), 4), np.float32))
    return {name: Entry(stamp, row) for (name, stamp), row in zip(stamps.items(), rows, strict=True)}


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, STAMPS, min_size=1, max_size=5))
def test_what_goes_in_comes_out(tmp_path: Path, stamps: dict[str, Stamp]) -> None:
    entries = entries_of(stamps)
    write_entries(tmp_path / "file.npz", "model", entries)
    found = read_entries(tmp_path / "file.npz", "model", 4)
    assert list(found) == list(entries)
    for name, entry in entries.items():
        assert found[name].stamp == entry.stamp
        assert np.array_equal(found[name].embedding, entry.embedding)
    assert read_entries(tmp_path / "file.npz", "another model", 4) == {}


def test_no_file_holds_nothing(tmp_path: Path) -> None:
    assert read_entries(tmp_path / "none.npz", "model", 4) == {}


def rewritten(**changes: object) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        with np.load(file) as stored:
            arrays = {**stored, **changes}
        np.savez(file, **arrays)

    return apply


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda f: f.write_text("my thesis"), "is not a file of embeddings"),
    "empty": (lambda f: f.write_bytes(b""), "is not a file of embeddings"),
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is not a file of embeddings"),
    "one array": (lambda f: np.save(f.open("wb"), np.zeros(3)), "is not a file of embeddings"),
    "other arrays": (lambda f: np.savez(f, weights=np.zeros(3)), "is not a file of embeddings"),
    "pickle": (rewritten(paths=np.array([{}, {}], object)), "more than plain numbers"),
    "fewer stamps": (rewritten(stamps=np.zeros((1, 2), np.int64)), "do not belong together"),
    "other stamps": (rewritten(stamps=np.zeros((2, 2), np.float64)), "do not belong together"),
    "other dimensions": (rewritten(embeddings=np.zeros((2, 3), np.float32)), "do not belong together"),
    "not finite": (rewritten(embeddings=np.full((2, 4), np.nan, np.float32)), "not finite"),
    "not of unit length": (rewritten(embeddings=np.full((2, 4), 0.51, np.float32)), "not of unit length"),
    "newer version": (rewritten(format_version=9), "format version 9, but this d4c reads up to 2"),
}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=r"pipe\.npz is not a regular file"):
        read_entries(tmp_path / "pipe.npz", "model", 2)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_refused(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "file.npz"
    write_entries(file, "model", entries_of({"a": Stamp(1, 2), "b": Stamp(3, 4)}))
    apply, message = DAMAGES[damage]
    apply(file)
    with pytest.raises(DataError, match=message):
        read_entries(file, "model", 4)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/below\.npz cannot be written .*keep the embeddings in another file"):
        write_entries(tmp_path / "file" / "below.npz", "model", entries_of({"a": Stamp(1, 2)}))
