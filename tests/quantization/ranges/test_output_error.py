"""Ranges by the error of a layer's output."""

import pytest
import torch
from torch import Tensor

from d4c.errors import DataError
from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.ranges.output_error import OutputObserver

ARGS = QuantArgs(4, False, "tensor")


def hidden(seed: int = 0) -> Tensor:
    """What an activation hands on: most values small, a few channels far louder, rarely."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 30, 64, generator=generator) - 0.5
    x[..., :2] *= 1 + 8 * (torch.rand(20, 30, 2, generator=generator) > 0.9)
    return x * torch.sigmoid(1.702 * x)


def output_error(x: Tensor, weight: Tensor, chosen: tuple[Tensor, Tensor]) -> float:
    return float(((fake_quantize(x, *chosen, ARGS.qmin, ARGS.qmax) - x) @ weight.T).square().mean())


@pytest.mark.parametrize("outputs", [40, 400])
def test_the_output_loses_less_than_with_the_range_of_least_error_of_the_input(outputs: int) -> None:
    x, weight = hidden(), torch.randn(outputs, 64, generator=torch.Generator().manual_seed(1))
    weight[:, :2] *= 0.1
    by_input, by_output = Observer(ARGS, "x"), OutputObserver(ARGS, "x", weight)
    for observer in (by_input, by_output):
        for batch in x.split(5):
            observer.add(batch)
    held_out = hidden(seed=2)
    errors = [output_error(held_out, weight, observer.finish()) for observer in (by_output, by_input)]
    assert errors[0] < 0.8 * errors[1]


def test_the_choice_is_the_best_of_a_fine_grid() -> None:
    x, weight = hidden().flatten(0, 1)[:256], torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    observer = OutputObserver(ARGS, "x", weight)
    observer.add(x)
    grid = [
        output_error(x, weight, (torch.tensor(0.01 * step), torch.tensor(float(zero_point))))
        for step in range(1, 120)
        for zero_point in range(5)
    ]
    assert output_error(x, weight, observer.finish()) < 1.05 * min(grid)


def test_an_input_of_zeros_has_a_range() -> None:
    observer = OutputObserver(ARGS, "x", torch.ones(3, 4))
    observer.add(torch.zeros(2, 5, 4))
    assert all(bool(value.isfinite()) for value in observer.finish())


def test_values_that_are_not_finite_are_named() -> None:
    observer = OutputObserver(ARGS, "image.mlp", torch.ones(3, 4))
    observer.add(torch.full((2, 5, 4), torch.nan))
    with pytest.raises(DataError, match=r"image\.mlp"):
        observer.finish()
