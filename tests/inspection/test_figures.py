"""Figures: what is in them, at a size that can be read."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matplotlib.text import Text
from PIL import Image

from d4c.errors import SettingError
from d4c.inspection.activations import Fit
from d4c.inspection.coverage import coverage
from d4c.inspection.figures import (
    activations_figure,
    coverage_figure,
    embedding_figure,
    structure_figure,
    styles,
)
from d4c.inspection.structure import Structure
from d4c.synthesis.methods.table import METHODS

NAMES = ["d4c", "pse", "bns", "pgsi", "d4c 2", "noise", "leaves", "real"]


def draw_coverage(names: list[str]) -> Any:
    units = F.normalize(torch.randn(20, 8), dim=-1)
    return coverage_figure({name: coverage(units[:8], units, 10.0) for name in names})


def draw_structure(names: list[str]) -> Any:
    values = tuple(torch.rand(8).tolist())
    power = tuple(f**-2 for f in range(1, 33))
    return structure_figure(
        {name: Structure(64, values, values, values, values, tuple(range(1, 33)), power) for name in names}
    )


def draw_embedding(names: list[str]) -> Any:
    return embedding_figure({name: tuple(map(tuple, torch.randn(8, 2).tolist())) for name in names})


def draw_activations(names: list[str], layers: int = 12) -> Any:
    fits = {f"image.blocks.{i}.mlp.fc1": Fit(1 + i / 10, 1.0, 1 / (1 + i / 10)) for i in range(layers)}
    return activations_figure(dict.fromkeys(names, fits), "real")


DRAWINGS = {
    "coverage": draw_coverage,
    "structure": draw_structure,
    "embedding": draw_embedding,
    "activations": draw_activations,
}


def shown_texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
@pytest.mark.parametrize("names", [["d4c", "noise", "leaves", "real"], NAMES], ids=["few", "many"])
def test_a_figure_names_every_set_in_letters_of_nine_points_or_more(
    draw: Callable[[list[str]], Any], names: list[str]
) -> None:
    figure = draw(names)
    file = io.BytesIO()
    figure.savefig(file)
    picture = Image.open(file)
    assert picture.width == 975
    assert picture.height < 1500
    assert len(picture.getcolors(1 << 20) or []) > 4
    missing = [name for name in names if not any(text.startswith(name) for text in shown_texts(figure))]
    assert missing == (["real"] if draw is draw_activations and "real" in missing else [])
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9


def test_each_of_eight_sets_looks_different() -> None:
    look = styles(dict.fromkeys(NAMES))
    assert len({look[name] for name in NAMES}) == len(NAMES)


def test_a_method_looks_the_same_beside_any_others() -> None:
    methods = [*METHODS, "real"]
    together = styles(dict.fromkeys(methods))
    assert len(set(together.values())) == len(methods)
    assert all(styles({"x": 0, name: 0, "y": 0})[name] == together[name] for name in methods)


def test_a_tower_of_many_layers_keeps_its_figure_on_a_page() -> None:
    figure = draw_activations(["d4c", "real"], 150)
    assert figure.get_size_inches()[1] <= 9
    labels = [text for text in shown_texts(figure) if text.startswith("blocks.")]
    assert 20 < len(labels) <= 42


def test_the_reference_is_not_drawn_against_itself() -> None:
    figure = draw_activations(["d4c", "noise", "real"])
    assert {text for text in shown_texts(figure) if text in NAMES} == {"d4c", "noise"}


def test_the_coverage_figure_shows_chance_level_for_each_set() -> None:
    figure = draw_coverage(["d4c", "real"])
    marks = [path.get_segments()[0][0][0] for path in figure.axes[2].collections]
    assert marks == pytest.approx([20 * (1 - (19 / 20) ** 8)] * 2)
    assert figure.axes[1].lines[0].get_xdata()[0] == pytest.approx(math.log(20))


def test_without_matplotlib_a_figure_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        SettingError, match=r"need matplotlib, which is not installed; run pip install 'd4c\[inspect\]'"
    ):
        draw_embedding(["d4c"])
