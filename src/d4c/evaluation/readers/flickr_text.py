"""Reads the text files of Flickr8k and Flickr30k, a caption per line.

1000268201.jpg#0<tab>A child in a pink dress .      Flickr8k.token.txt, results_20130124.token
1000268201.jpg,A child in a pink dress .            captions.txt
1000092795.jpg| 0| Two young guys .                 results.csv
"""

from __future__ import annotations

import re
from pathlib import Path

from d4c.errors import DataError
from d4c.evaluation.dataset import CaptionedDataset
from d4c.evaluation.readers.captions import captioned
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.words.text_lines import text_lines

LINE = re.compile(r"(?P<name>[^,|\t#]+?)(#\d+\t|,|\| *\d+\|)\s*(?P<caption>.+)")
HEADINGS = ("image,caption", "image_name| comment_number| comment")


def read_flickr(spec: str, file: Path) -> CaptionedDataset:
    """Read pictures with their captions; lines with the same picture are captions of one.

    Args:
        spec: Name of the dataset.
        file: One of the files above; pictures lie beside it or in a folder images, flickr30k-images or such.

    Raises:
        DataError: A line has another form, or the pictures are not there.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(text_lines(file), 1):
        if number == 1 and line in HEADINGS:
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise DataError(
                f"Line {number} of {file} is {line[:60]!r}, expected a picture with its caption such as "
                "'1.jpg#0<tab>A dog .'; correct or remove it."
            )
        captions.setdefault(match["name"], []).append(match["caption"])
    return captioned(spec, file, captions)


FLICKR = Reader(
    "flickr:FILE",
    "text file of Flickr8k or Flickr30k, pictures beside it",
    read_flickr,
    names_pictures=True,
)
