"""A synthesis that is killed and started again ends with the images of one that was not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from d4c.errors import ArtifactError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.storage.resumable import Saves
from d4c.synthesis import loop
from d4c.synthesis.resume import refuse_other_files, remove_checkpoints
from d4c.synthesis.synthesize import synthesize

TINY = CLIPConfig(16, ViTConfig(16, 8, 64, 1, 1, 32), TextConfig(64, 1, 1, 32, context_length=12))
NAMES = ["cat", "dog"]
ITERATIONS = 10


class Killed(Exception):
    pass


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> CLIP:
    monkeypatch.setattr(loop, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(Saves, "due", lambda self: True)
    torch.manual_seed(0)
    return CLIP(TINY, "tiny")


def make(
    clip: CLIP, prefix: Path | None, kill_at: int | None = None, seed: int = 0, method: str = "d4c"
) -> torch.Tensor:
    def progress(done: int, total: int) -> None:
        if done == kill_at:
            raise Killed

    settings = {"images": 5, "group_size": 2, "iterations": ITERATIONS, "prompts": NAMES}
    return synthesize(clip, method, seed=seed, checkpoint=prefix, progress=progress, **settings).pixels  # type: ignore[arg-type]


@pytest.mark.parametrize("kill_at", [1, 2, ITERATIONS - 1])
@pytest.mark.parametrize("method", ["d4c", "pse"])
def test_a_killed_synthesis_ends_with_the_same_images(tiny: CLIP, tmp_path: Path, kill_at: int, method: str) -> None:
    whole = make(tiny, None, method=method)
    prefix = tmp_path / "partial"
    with pytest.raises(Killed):
        make(tiny, prefix, kill_at, method=method)
    assert kill_at == 1 or list(tmp_path.iterdir())
    assert torch.equal(make(tiny, prefix, method=method), whole)


def test_it_resumes_and_does_not_begin_again(tiny: CLIP, tmp_path: Path) -> None:
    prefix = tmp_path / "partial"
    make(tiny, prefix)
    seen: list[int] = []
    synthesize(
        tiny,
        images=5,
        group_size=2,
        iterations=ITERATIONS,
        prompts=NAMES,
        checkpoint=prefix,
        progress=lambda done, total: seen.append(done),
    )
    assert seen == [0]  # the last state that was saved is the last one


def test_a_checkpoint_of_other_settings_is_not_used(tiny: CLIP, tmp_path: Path) -> None:
    make(tiny, tmp_path / "partial", seed=1)
    assert torch.equal(make(tiny, tmp_path / "partial", seed=2), make(tiny, None, seed=2))


def test_a_checkpoint_of_another_shape_is_not_used(tiny: CLIP, tmp_path: Path) -> None:
    make(tiny, tmp_path / "partial")
    file = tmp_path / "partial.0"
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    save_file({**load_file(file), "history": torch.zeros(1)}, file, metadata=metadata)
    assert torch.equal(make(tiny, tmp_path / "partial"), make(tiny, None))


def test_a_kill_in_the_first_minute_loses_at_most_half(
    tiny: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterations of four seconds, by a clock that each iteration moves."""
    monkeypatch.undo()
    now = [0.0]
    step = loop.Loop.step

    def slow_step(self: loop.Loop) -> None:
        step(self)
        now[0] += 4.0

    monkeypatch.setattr(loop.Loop, "step", slow_step)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for kill_at in range(2, ITERATIONS):
        prefix = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            make(tiny, prefix, kill_at)
        kept = int(load_file(f"{prefix}.0")["done"])
        assert kept >= kill_at / 2


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_checkpoint_with_one_flipped_bit_is_not_used(tiny: CLIP, tmp_path: Path, place: float) -> None:
    make(tiny, tmp_path / "partial")
    content = bytearray((tmp_path / "partial.0").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")  # of the tensors
    content[start + int(place * (len(content) - start))] ^= 1
    (tmp_path / "partial.0").write_bytes(content)
    assert torch.equal(make(tiny, tmp_path / "partial"), make(tiny, None))


def test_files_of_somebody_else_are_named_before_any_work_and_stay(tmp_path: Path) -> None:
    for name in ("partial.64", "partial.txt", "partial.2024-01-01", "other.0"):
        (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match=r"partial\.64 is where d4c keeps unfinished work"):
        refuse_other_files(tmp_path / "partial")
    remove_checkpoints(tmp_path / "partial")
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "partial.64").unlink()
    refuse_other_files(tmp_path / "partial")


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    Saves({}).write({tmp_path / "other.unfinished.0": {"a": torch.zeros(1)}})
    remove_checkpoints(tmp_path / "*.unfinished")
    assert [path.name for path in tmp_path.iterdir()] == ["other.unfinished.0"]
