"""The page of results: one file, nothing of names or queries gets out of its place."""

from __future__ import annotations

import base64
import ntpath
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from d4c.errors import DataError
from d4c.printable import printable
from d4c.runtime.gallery import Answer, Match
from d4c.runtime.page import SIDE, link_between, write_page

QUERY = '<script>alert("1")</script> & co'


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path: Path) -> tuple[Path, list[Match]]:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    names = ['"><img src=x onerror=alert(1)>.png', "50% off #1?.png", "größe.png", "line\nbreak.png"]
    for i, name in enumerate(names):
        Image.new("RGBA", (600 + i, 300), (255, 0, 0, 60 * i)).save(folder / name)
    matches = [Match(name, 0.3 - i / 10) for i, name in enumerate(names)]
    write_page(tmp_path / "out" / "page.html", [Answer(QUERY, tuple(matches))], folder, "2 < 3")
    return tmp_path / "out" / "page.html", matches


def test_names_and_queries_are_text(page: tuple[Path, list[Match]]) -> None:
    read = Reader(page[0].read_text(encoding="utf-8"))
    assert [tag for tag, _ in read.tags if tag in ("script", "h1", "title")] == ["title", "h1"]
    assert read.texts.count(QUERY) == 2
    assert "2 < 3" in read.texts
    assert [image["alt"] for image in read.all("img")] == [printable(match.path) for match in page[1]]
    assert set().union(*read.all("img")) == {"src", "alt"}


def test_a_query_that_is_not_text_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", [Answer("caf\udce9", ())], tmp_path, "in caf\udce9")
    read = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert read.texts.count("caf\ufffd") == 2
    assert "in caf\ufffd" in read.texts


def test_several_queries_are_sections(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", [Answer("a cat", ()), Answer(QUERY, ())], tmp_path, "")
    read = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(read.all("h2")) == len(read.all("ol")) == 2
    assert read.texts.count(f"a cat, {QUERY}") == 2
    assert read.texts.count(QUERY) == 1


def test_links_lead_to_the_pictures(page: tuple[Path, list[Match]]) -> None:
    file, matches = page
    links = [link["href"] or "" for link in Reader(file.read_text(encoding="utf-8")).all("a")]
    for link, match in zip(links, matches, strict=True):
        target = file.parent / unquote_to_bytes(link).decode()
        assert target.resolve() == (file.parent.parent / "my pictures" / match.path).resolve()


def test_nothing_comes_from_elsewhere(page: tuple[Path, list[Match]]) -> None:
    text = page[0].read_text(encoding="utf-8")
    assert "http" not in text
    for image in Reader(text).all("img"):
        kind, _, data = (image["src"] or "").partition(",")
        assert kind == "data:image/jpeg;base64"
        thumbnail = Image.open(BytesIO(base64.b64decode(data)))
        assert max(thumbnail.size) == SIDE


def test_transparent_parts_are_white(page: tuple[Path, list[Match]]) -> None:
    source = Reader(page[0].read_text(encoding="utf-8")).all("img")[0]["src"] or ""
    thumbnail = Image.open(BytesIO(base64.b64decode(source.partition(",")[2])))
    assert np.asarray(thumbnail).min() > 250


def test_thumbnails_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30)).save(tmp_path / "turned.jpg", exif=exif)
    write_page(tmp_path / "page.html", [Answer("x", (Match("turned.jpg", 0.1),))], tmp_path, "")
    source = Reader((tmp_path / "page.html").read_text(encoding="utf-8")).all("img")[0]["src"] or ""
    assert Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))).size == (30, 60)


def test_a_picture_that_has_gone_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not decode"):
        write_page(tmp_path / "page.html", [Answer("x", (Match("gone.png", 0.1),))], tmp_path, "")
    assert not list(tmp_path.iterdir())


def test_names_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[31m\n\udce9 é🙂.png") == "a\ufffd[31m\ufffd\ufffd é🙂.png"


def test_links_lead_across_folders_and_drives_on_windows() -> None:
    page = PureWindowsPath("C:/pages")
    links = {
        "C:/pages/ä b/1.png": "%C3%A4%20b/1.png",
        "C:/pictures/1#.png": "../pictures/1%23.png",
        "D:/pictures/1.png": "file:///D:/pictures/1.png",
    }
    for picture, link in links.items():
        assert link_between(PureWindowsPath(picture), page, ntpath.relpath) == link
