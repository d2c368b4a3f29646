"""What an observer makes of the batches that it sees."""

from __future__ import annotations

import pytest
import torch

from d4c.errors import DataError
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.observer import Observer


@pytest.mark.parametrize("strategy", ["tensor", "channel"])
def test_an_observer_sees_batches_as_one(strategy: str) -> None:
    args = QuantArgs(4, False, strategy)  # type: ignore[arg-type]
    x = torch.randn(6, 7, 5) * torch.arange(1.0, 6)
    whole, parts = Observer(args, "whole"), Observer(args, "parts")
    whole.add(x)
    for part in x.split(2):
        parts.add(part)
    assert all(torch.equal(a, b) for a, b in zip(whole.finish(), parts.finish(), strict=True))
    assert whole.finish()[0].shape == ((5,) if strategy == "channel" else ())


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_an_observer_names_the_layer_that_is_not_finite(value: float) -> None:
    observer = Observer(QuantArgs(8, False, "tensor"), "image.blocks.3.attn.q")
    observer.add(torch.full((20_000,), value))
    with pytest.raises(DataError, match=r"image\.blocks\.3\.attn\.q contains NaN or infinite"):
        observer.finish()


def test_an_observer_that_saw_nothing_says_so() -> None:
    with pytest.raises(DataError, match="saw no data"):
        Observer(QuantArgs(8, False, "tensor"), "x").finish()
