"""Unfinished work on disk: when it is written, and when it is read back."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from d4c.errors import ArtifactError
from d4c.storage.resumable import COST, LONGEST, SHORTEST, Saves, refuse_others, remove_saves

STATE = {"a": torch.arange(3.0), "b": torch.tensor(7)}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def saved_at(step: float, end: float, folder: Path) -> list[float]:
    """The seconds at which a job that is looked at every `step` seconds until `end` is saved."""
    clock = Clock()
    saves = Saves({"job": 1}, clock)
    times = []
    while clock.now < 100 + end:
        clock.now += step
        if saves.due():
            saves.write({folder / "state": STATE})
            times.append(clock.now - 100)
    return times


def test_a_kill_in_the_first_minute_loses_at_most_half(tmp_path: Path) -> None:
    times = [0.0, *saved_at(0.5, 60, tmp_path), 60.0]
    for last, following in pairwise(times[1:]):
        assert following - last <= following / 2
    assert times[1] == SHORTEST


def test_saves_of_a_long_job_are_half_a_minute_apart(tmp_path: Path) -> None:
    times = saved_at(1.0, 1000, tmp_path)
    assert times[-1] - times[-2] == LONGEST


def test_a_slow_disk_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    clock = Clock()
    saves = Saves({}, clock)
    saves.saved, saves.cost = clock.now, 5.0
    clock.now += COST * 5.0 - 1
    assert not saves.due()
    clock.now += 1
    assert saves.due()


@given(st.integers(0, 2**63 - 1), st.lists(st.floats(width=32), max_size=5))
def test_what_is_written_is_read_bit_for_bit(done: int, values: list[float]) -> None:
    import tempfile

    state = {"done": torch.tensor(done), "values": torch.tensor(values, dtype=torch.float32)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        Saves({"seed": 1}).write({path: state})
        again = Saves({"seed": 1}).read(path, state)
    assert again is not None
    assert torch.equal(again["done"], state["done"])
    assert torch.equal(again["values"].view(torch.int32), state["values"].view(torch.int32))


def test_another_key_shape_type_or_name_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    saves = Saves({"seed": 1})
    saves.write({path: STATE})
    assert saves.read(path, STATE) is not None
    assert Saves({"seed": 2}).read(path, STATE) is None
    for other in ({"a": torch.zeros(4)}, {"a": torch.zeros(3).double()}, {"c": torch.zeros(())}):
        assert saves.read(path, {**STATE, **other}) is None


def test_what_is_missing_is_not_read(tmp_path: Path) -> None:
    assert Saves({}).read(tmp_path / "state", STATE) is None


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100], ids=["empty", "text", "bytes"])
def test_a_file_of_somebody_else_is_named_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(ArtifactError, match="state is where d4c keeps unfinished work, and d4c did not write"):
        Saves({}).read(tmp_path / "state", STATE)
    remove_saves(tmp_path, "state")
    assert (tmp_path / "state").read_bytes() == content


def test_weights_of_somebody_else_stay(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    (tmp_path / "b.safetensors").mkdir()
    for name in ("a", "b"):
        with pytest.raises(ArtifactError, match=f"{name}.safetensors is where d4c keeps unfinished work"):
            refuse_others([tmp_path / f"{name}.safetensors"])
    remove_saves(tmp_path, r".+\.safetensors")
    assert len(list(tmp_path.iterdir())) == 2


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    saves = Saves({})
    saves.write({tmp_path / "state": STATE})
    content = bytearray((tmp_path / "state").read_bytes())
    content[-1] ^= 1
    (tmp_path / "state").write_bytes(content)
    assert saves.read(tmp_path / "state", STATE) is None


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    saves = Saves({})
    saves.write({tmp_path / "state": {"whole": whole, "again": whole}})
    assert saves.read(tmp_path / "state", {"whole": whole, "again": whole}) is not None


def test_only_files_of_the_job_are_removed(tmp_path: Path) -> None:
    for name in ("job.0", "job.12", "job.txt", "job.0.old", "other.0"):
        Saves({}).write({tmp_path / name: STATE})
    (tmp_path / "job.1").write_text("not a save")
    (tmp_path / ".job.0.0123abcd.d4c-new").mkdir()
    remove_saves(tmp_path, r"job\.[0-9]+")
    assert {path.name for path in tmp_path.iterdir()} == {"job.txt", "job.0.old", "other.0", "job.1"}
