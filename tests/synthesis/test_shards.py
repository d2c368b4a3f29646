"""Two processes make the images of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import ResNetConfig, TextConfig
from d4c.synthesis import shards
from d4c.synthesis.shards import share, workers


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 9))
def test_shares_are_whole_units_that_hold_each_image_once_and_the_first_is_largest(
    images: int, unit: int, count: int
) -> None:
    shares: list[range] = []
    for rank in range(count):
        with patch.object(shards, "rank_and_count", return_value=(rank, count)):
            part = share(images, unit)
        assert part.start % unit == 0 or part.start == images
        shares.append(range(images)[part])
    assert [row for rows in shares for row in rows] == list(range(images))
    assert max(shares, key=len) == shares[0]


HALF: dict[str, dict[str, str]] = {
    "no rank": {"WORLD_SIZE": "2"},
    "no address": {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "29500"},
    "no number": {"WORLD_SIZE": "two"},
    "a huge number": {"WORLD_SIZE": "9" * 5000},
    "empty": {"WORLD_SIZE": ""},
    "a large rank": {
        "WORLD_SIZE": "2",
        "RANK": "2",
        "LOCAL_RANK": "0",
        "MASTER_PORT": "29500",
        "MASTER_ADDR": "localhost",
    },
}


@pytest.mark.parametrize("environment", HALF.values(), ids=HALF)
def test_half_of_an_environment_is_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=r"The environment has .*torchrun") as caught, workers("cpu"):
        pass
    assert str(caught.value).count("WORLD_SIZE=") == 1


def test_two_processes_make_the_images_of_one(tmp_path: Path) -> None:
    device = "cuda" if torch.cuda.device_count() > 1 else "cpu"  # each process has a GPU of its own
    text = TextConfig(width=32, layers=1, heads=2, mlp_width=64)
    CLIP(CLIPConfig(16, ResNetConfig(64, 8, (1, 1, 1, 1), 4), text), "tiny").save_pretrained(tmp_path / "tiny")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "d4c"]
    verb = ["synthesize", "--model", str(tmp_path / "tiny"), "--images", "32", "--iterations", "2", "--preset", "paper"]
    verb += ["--device", device, "-o", str(tmp_path / "two")]
    subprocess.run([*launch, *verb], check=True, capture_output=True, timeout=120)
    # One thread, as torchrun gives each process and tests have anyway.
    clip = d4c.load(tmp_path / "tiny", device=device)
    d4c.synthesize(clip, preset="paper", images=32, iterations=2, batch=16, progress=None).save(tmp_path / "one")
    one, two = (CalibrationSet.load(tmp_path / name) for name in ("one", "two"))
    assert torch.equal(one.pixels.view(torch.int32), two.pixels.view(torch.int32))
    assert one.prompts == two.prompts
    assert [(made.provenance["batch"], made.provenance["processes"]) for made in (one, two)] == [(16, 1), (16, 2)]
