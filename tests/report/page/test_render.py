"""The page holds everything, escapes what others wrote, and says in a sentence what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from d4c.models.clip import CLIP
from d4c.report.gather import NO_DATASET, NO_EXPORT, NO_IMAGES, ReportData, gather
from d4c.report.measures.before_after import examples
from d4c.report.measures.predictions import Predictions, accuracy
from d4c.report.page.render import ASSETS, render
from d4c.report.page.words import lead
from d4c.report.subject import Subject
from d4c.storage.files import sha256


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def page(report: ReportData) -> str:
    return render(report)


def test_every_section_is_there(page: str, report: ReportData) -> None:
    reader = read(page)
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections == ["headline", "examples", "towers", "layers", "checkpoint", "images", "time", "repeat"]
    links = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert {f"#{name}" for name in sections} < links
    (part,) = report.parts.values()
    assert lead("small", part.name, part.headline) in reader.text


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    for tag, attributes in read(page).tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, value)
    styles = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_the_names_of_others_are_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "<script>alert('class')</script>" in read(page).text
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert len(blocks) > 8
    for block in blocks:
        json.loads(block)
        assert "<" not in block


def test_every_chart_has_a_table_and_a_name(page: str) -> None:
    tags = read(page).tags
    charts = [attributes for tag, attributes in tags if attributes.get("class") == "chart" and tag == "figure"]
    tables = {attributes.get("id") for tag, attributes in tags if tag == "table"}
    names = [str(attributes["id"]) for attributes in charts]
    assert len(set(names)) == len(names)
    assert {f"{name.removeprefix('chart-')}-table" for name in names} < tables
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "canvas")
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")


def test_what_is_missing_is_said_in_a_sentence(subject: Subject, small: CLIP) -> None:
    bare = gather([replace(subject, images=None, images_folder=None)], small, None)
    text = read(render(bare)).text
    for sentence in (NO_DATASET, NO_IMAGES, NO_EXPORT, "No accuracy was measured; name a dataset with --dataset."):
        assert sentence in text


def test_two_models_stand_side_by_side(report: ReportData) -> None:
    ((name, part),) = report.parts.items()
    assert isinstance(report.predictions, Predictions)
    (embeddings,) = report.predictions.models.values()
    names = name, "the same again"
    predictions = replace(report.predictions, models=dict.fromkeys(names, embeddings))
    both = replace(
        report,
        parts=dict.fromkeys(names, part),
        accuracy=accuracy(predictions),
        examples=examples(predictions),
        predictions=predictions,
        images=dict.fromkeys(names, report.images[name]),
    )
    reader = read(render(both))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert f"small in {name} and the same again" in reader.text
    assert "Layers of the image tower, all models" in reader.text
    for each in names:
        assert reader.text.count(each) > 10


def test_the_record_is_json(report: ReportData) -> None:
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["model"] == "small"
    assert data["accuracy"]["reference"]["count"] == 24
    assert "d4c" in data["sets"]


def test_the_library_is_the_one_that_its_page_names() -> None:
    folder = Path(str(ASSETS)) / "chartjs"
    text = (folder / "README.md").read_text()
    assert sha256(folder / "chart.umd.min.js") in text
    version = re.search(r"Chart\.js v([\d.]+)", (folder / "chart.umd.min.js").read_text())
    assert version is not None
    assert f"Chart.js {version[1]}" in text
    assert (folder / "LICENSE.md").read_text().startswith("The MIT License")
