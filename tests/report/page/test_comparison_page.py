"""The page of a comparison shows every combination, and says which is best."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from d4c.comparison.summary import SummaryRow
from d4c.comparison.tables import name_of
from d4c.evaluation.metrics.intervals import Interval
from d4c.report.measures.repeat import Repeat
from d4c.report.page.render import render_comparison
from d4c.report.page.words import comparison_lead

FLOAT = SummaryRow(
    dataset="demo",
    figure="top1",
    model="<b>model</b>",
    method="float",
    scheme="float",
    track="deployable",
    reconstruction="none",
    towers="both",
    seeds=1,
    count=496,
    mean=50.0,
    lowest=50.0,
    highest=50.0,
    spread=None,
    low=45.0,
    high=55.0,
    gap=None,
    change=None,
    beside=None,
    same_class=None,
    cosine=None,
    synthesis_seconds=None,
    quantize_seconds=None,
    bytes=28_000_000,
)
NOISE = replace(FLOAT, method="noise", scheme="W4A8", mean=46.5, change=Interval(-3.5, -5.0, -2.0), bytes=4_000_000)
BEST = replace(NOISE, method="d4c", mean=49.25, change=Interval(-0.75, -2.0, 0.5), gap=0.8)
OTHER = replace(BEST, dataset="cifar10:data", mean=90.0)

AGAIN = Repeat("d4c compare ...", 'methods = ["<b>"]', {"<b>": {"d4c": "0.1.0"}}, {}, {"the weights of <b>": "0" * 64})


class Cells(HTMLParser):
    """Collects the text of table cells, and the tags of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] in (["td"], ["th"]):
            self.cells.append(data.strip())


@pytest.fixture(scope="module")
def page() -> Cells:
    cells = Cells()
    cells.feed(render_comparison([FLOAT, NOISE, replace(BEST, beside=Interval(2.75, 1.25, 4.5)), OTHER], AGAIN))
    return cells


def test_every_combination_is_in_a_table(page: Cells) -> None:
    assert page.tags.count("figure") == 2
    for value in ("50.00", "46.50", "49.25", "90.00", "-0.7500", "80.00", "28.00", "45.00", "2.750", "1.250", "0" * 64):
        assert value in page.cells
    assert "b" not in page.tags


def test_methods_have_short_names_that_tell_them_apart() -> None:
    train = replace(BEST, method="real:parquet:data/train.parquet")
    nouns = replace(BEST, method="d4c:prompts/nouns.txt")
    copied = replace(nouns, method="d4c:elsewhere/nouns.txt")
    assert name_of(train, [FLOAT, train, BEST]) == "real:train"
    assert [name_of(row, [BEST, nouns]) for row in (BEST, nouns)] == ["d4c", "d4c:nouns"]
    assert [name_of(row, [nouns, copied]) for row in (nouns, copied)] == [nouns.method, copied.method]


def test_the_best_combination_is_named() -> None:
    sentence = "Of 2 combinations W4A8 with d4c comes out best: 49.2 % top-1 on demo, -0.8 points from float."
    apart = replace(NOISE, change=Interval(-3.5, -5.0, -2.1))
    assert comparison_lead([FLOAT, apart, BEST, OTHER]) == sentence
    solved = comparison_lead([FLOAT, apart, replace(BEST, reconstruction="gptq"), OTHER])
    assert solved.startswith("Of 2 combinations W4A8 with d4c, gptq comes out best")
    near = replace(NOISE, change=Interval(-3.5, -5.0, -1.9))
    assert comparison_lead([FLOAT, near, BEST, OTHER]).startswith(f"{sentence} Its 95 % interval overlaps with that of")
    assert comparison_lead([FLOAT, BEST, replace(BEST, method="pink")]).startswith("Of 2 combinations 2 come out alike")
    assert comparison_lead([FLOAT, BEST]).startswith("The only combination, W4A8 with d4c, has 49.2 %")
    another = replace(BEST, model="another")
    assert comparison_lead([FLOAT, apart, BEST, another]).startswith("Of 2 combinations of <b>model</b>, W4A8 with d4c")
    assert comparison_lead([FLOAT, BEST, another]).startswith(
        "The only combination of <b>model</b>, W4A8 with d4c, has"
    )
    assert comparison_lead([FLOAT]) == "<b>model</b> was compared with nothing."
