"""Writes search results as one HTML file with embedded thumbnails."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path, PurePath
from urllib.parse import quote

from PIL import Image

from d4c.pictures import Picture, opened_picture
from d4c.printable import printable
from d4c.runtime.gallery import Answer, Match
from d4c.storage.files import atomic_file

SIDE = 480
"""Longer side of a thumbnail in pixels, twice what the page shows."""

STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1, h2 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 1.5rem 0 .75rem; }
header p { margin: .25rem 0 1.25rem; opacity: .75; }
ol { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); list-style: none;
  margin: 0; padding: 0; }
li { border: 1px solid #8885; border-radius: .5rem; overflow: hidden; }
a { color: inherit; display: block; text-decoration: none; }
a:focus-visible { outline: 3px solid Highlight; outline-offset: -3px; }
img { aspect-ratio: 1; background: #8882; display: block; height: auto; object-fit: contain; width: 100%; }
p.name { font-size: .8rem; margin: 0; overflow-wrap: anywhere; padding: .5rem .6rem; }
p.name b { display: block; font-variant-numeric: tabular-nums; font-weight: 600; }
"""


def write_page(file: Path, answers: Sequence[Answer], folder: Path, note: str) -> None:
    """Write a page of thumbnails that link to the pictures; it appears whole or not at all.

    Args:
        file: The HTML file.
        answers: What was found; the queries are the title of the page, several of them also those of its sections.
        folder: Folder with the pictures.
        note: One line below the title.

    Raises:
        DataError: One of the pictures does not exist any more or does not decode.
    """
    title = escape(printable(", ".join(answer.query for answer in answers)))
    sections = "\n".join(_section(answer, len(answers) > 1, folder, file.parent) for answer in answers)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="d4c">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{escape(printable(note))}</p>
</header>
{sections}
</body>
</html>
"""
    with atomic_file(file) as new:
        new.write_text(page, encoding="utf-8")


def _section(answer: Answer, is_one_of_several: bool, folder: Path, page: Path) -> str:
    heading = f"<h2>{escape(printable(answer.query))}</h2>\n" if is_one_of_several else ""
    items = "\n".join(_item(match, folder, page) for match in answer.matches)
    return f"{heading}<ol>\n{items}\n</ol>"


def _item(match: Match, folder: Path, page: Path) -> str:
    picture = folder.absolute() / match.path
    link = link_between(picture, page)
    name = escape(printable(match.path))
    source = f"data:image/jpeg;base64,{base64.b64encode(thumbnail(picture)).decode()}"
    return (
        f'<li><a href="{link}"><img src="{source}" alt="{name}">'
        f'<p class="name"><b>{match.score:.3f}</b>{name}</p></a></li>'
    )


def link_between(picture: PurePath, page: PurePath, relative: Callable[..., str] = os.path.relpath) -> str:
    """Return the address of a picture in a page: relative, or absolute where the two are on different drives.

    Args:
        picture: The picture.
        page: The folder of the page.
        relative: `os.path.relpath` of the system that the paths belong to.
    """
    try:
        return quote(os.fsencode(type(picture)(relative(picture, page)).as_posix()))
    except ValueError:
        return picture.as_uri()


def thumbnail(source: Picture) -> bytes:
    """Return a small JPEG of a picture.

    Raises:
        DataError: It does not exist any more or does not decode.
    """
    stream = BytesIO()
    with opened_picture(source) as picture:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()
