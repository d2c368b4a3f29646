"""`render`: a report as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import count
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from d4c.comparison.summary import SummaryRow
from d4c.comparison.tables import NOTE
from d4c.inspection.report import Inspection
from d4c.printable import printable
from d4c.report.gather import ReportData
from d4c.report.measures.predictions import Predictions, guilty
from d4c.report.measures.repeat import GRID_FILE, Repeat
from d4c.report.missing import Missing
from d4c.report.page import charts, set_charts, words
from d4c.report.page.comparison_charts import comparison_charts
from d4c.report.page.thumbnails import LARGE, SMALL, Thumbnail, thumbnail
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

GALLERY = 64
"""Largest number of calibration images that are shown."""
FIRST = 24
"""How many of them are shown before a reader asks for more."""
FILTERED = 12
"""Tables of more rows get a field that filters them."""
LICENSES = ("LICENSE.md", "LICENSE-kurkle-color.md")
ASSETS = files("d4c.report.page") / "assets"


def render(report: ReportData) -> str:
    """Return the page of a report; all text of others in it is escaped.

    Args:
        report: Everything that it says.
    """
    pictures = _Pictures(report.predictions)
    return str(
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            **_frame(f"{report.model} in {' and '.join(report.parts)}"),
            charts=charts,
            words=words,
            guilty=guilty,
            picture=pictures.large,
            neighbor=pictures.small,
            **_image_sets(report.images, report.sets),
            number=count(1).__next__,
        )
    )


def render_inspection(inspection: Inspection, images: Mapping[str, CalibrationSet]) -> str:
    """Return the page of an inspection: the section about calibration images alone.

    Args:
        inspection: All measures.
        images: The sets that were inspected, by name.
    """
    page = _environment().get_template("inspection.html")
    title = f"Images for {inspection.model}: {', '.join(images)}"
    return str(page.render(**_frame(title), **_image_sets(images, inspection)))


def render_comparison(rows: Sequence[SummaryRow], again: Repeat) -> str:
    """Return the page of a comparison.

    Args:
        rows: Its summary.
        again: How to measure it again.
    """
    frame = _frame(f"Comparison of {', '.join(dict.fromkeys(row.model for row in rows))}")
    page = _environment().get_template("comparison.html")
    return str(
        page.render(
            **frame,
            lead=words.comparison_lead(rows),
            note=NOTE.replace("*", ""),
            charts=comparison_charts(rows),
            again=again,
            settings_file=GRID_FILE,
        )
    )


def _frame(title: str) -> dict[str, Any]:
    """What every page has."""
    return {
        "title": printable(title),
        "version": __version__,
        "style": _asset("style.css"),
        "script": _asset("report.js"),
        "library": _asset("chartjs/chart.umd.min.js").rpartition("//# sourceMappingURL")[0],
        "licenses": [(ASSETS / "chartjs" / name).read_text(encoding="utf-8") for name in LICENSES],
        "filtered": FILTERED,
    }


def _image_sets(images: Mapping[str, CalibrationSet], sets: Inspection | Missing) -> dict[str, Any]:
    """What the section about calibration images needs."""
    return {
        "images": images,
        "sets": sets,
        "galleries": {name: _gallery(own) for name, own in images.items()},
        "set_charts": set_charts,
        "first": FIRST,
    }


class _Pictures:
    """Thumbnails of the pictures of a dataset, each made once."""

    def __init__(self, predictions: Predictions | Missing) -> None:
        self.predictions = predictions
        self.made: dict[tuple[int, int], Thumbnail] = {}

    def large(self, index: int) -> Thumbnail:
        return self._picture(index, LARGE)

    def small(self, index: int) -> Thumbnail:
        return self._picture(index, SMALL)

    def _picture(self, index: int, side: int) -> Thumbnail:
        assert isinstance(self.predictions, Predictions)
        if (index, side) not in self.made:
            data = self.predictions.dataset
            self.made[index, side] = thumbnail(data.image(index), self.predictions.name(index), side)
        return self.made[index, side]


def _gallery(images: CalibrationSet) -> list[Thumbnail]:
    """The first calibration images with their prompts."""
    shown = images.pictures()[:GALLERY]
    return [
        thumbnail(picture, prompt or f"image {i}")
        for i, (picture, prompt) in enumerate(zip(shown, images.prompts, strict=False))
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("d4c.report.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = _json
    environment.filters["clean"] = printable
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.tests["number"] = lambda value: isinstance(value, int | float)
    return environment


def _json(data: Any) -> Markup:
    """JSON that may stand inside of a script element: no character there begins a tag or an entity."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _asset(name: str) -> Markup:
    """A file of ours, to be put into a style or script element as it is."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))
