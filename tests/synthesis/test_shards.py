"""Two processes make the images of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st

from d4c.calibration.images import CalibrationSet
from d4c.synthesis import shards
from d4c.synthesis.shards import share


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


def test_two_processes_make_the_images_of_one(tmp_path: Path) -> None:
    verb = ["synthesize", "--model", "demo-rn", "--images", "32", "--iterations", "2", "--preset", "paper"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "d4c"]
    subprocess.run([*launch, *verb, "-o", str(tmp_path / "two")], check=True, capture_output=True, timeout=120)
    alone = [sys.executable, "-m", "d4c", *verb, "--batch", "16", "-o", str(tmp_path / "one")]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as torchrun gives each process
    subprocess.run(alone, check=True, capture_output=True, timeout=120, env=one_thread)
    one, two = (CalibrationSet.load(tmp_path / name) for name in ("one", "two"))
    assert torch.equal(one.pixels.view(torch.int32), two.pixels.view(torch.int32))
    assert one.prompts == two.prompts
    assert [(made.provenance["batch"], made.provenance["processes"]) for made in (one, two)] == [(16, 1), (16, 2)]
