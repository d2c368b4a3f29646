"""What all tests share."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from hypothesis import settings

import d4c
from d4c.models.clip import CLIP

# open_clip and transformers import torchvision, whose wheels for CUDA miss two operators beside a CPU build of
# torch and fail at import; declaring them is enough, no test calls them.
if importlib.util.find_spec("torchvision") and not torch.cuda.is_available():
    _TORCHVISION = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

# The models of the tests are small: more threads cost more than they give, above all beside other test processes.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is, not whether the law holds.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than some seconds or a gigabyte; run with -m slow")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, alone or in company."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=["demo-vit", "demo-rn"])
def demo(request: pytest.FixtureRequest) -> CLIP:
    """Each embedded model; tests must not change it."""
    return d4c.load(request.param)


@pytest.fixture(scope="session")
def demo_vit() -> CLIP:
    """The embedded vision transformer; tests must not change it."""
    return d4c.load("demo-vit")


@pytest.fixture(scope="session")
def demo_rn() -> CLIP:
    """The embedded ResNet; tests must not change it."""
    return d4c.load("demo-rn")
