"""Reads captions from CSV, TSV or JSON lines with the columns filepath and title, as open_clip does."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from d4c.errors import DataError, reason_of
from d4c.evaluation.dataset import CaptionedDataset
from d4c.evaluation.readers.captions import captioned
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.words.text_lines import whole_text
from d4c.reading.json_file import parse_json
from d4c.reading.schema import AnyText, Either, List, Record, check

ADVICE = "write it as open_clip reads it"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
ROW = Record({"filepath": AnyText(4000), "title": Either((AnyText(), List(AnyText(), 1)))})


def read_caption_table(spec: str, file: Path) -> CaptionedDataset:
    """Read pictures with captions; rows with the same picture are captions of one.

    Args:
        spec: Name of the dataset.
        file: A .csv, .tsv or .jsonl file; paths of pictures are relative to its folder. In JSON lines a title may be a
            list.

    Raises:
        DataError: The file has another form, or the pictures are not there.
    """
    text = whole_text(file)
    rows: Iterable[tuple[str, list[str]]]
    if file.suffix == ".jsonl":
        rows = _json_rows(file, text)
    elif file.suffix in SEPARATORS:
        rows = _table_rows(file, text, SEPARATORS[file.suffix])
    else:
        raise DataError(f"{file} ends in {file.suffix!r}, expected .csv, .tsv or .jsonl; rename it by what it holds.")
    captions: dict[str, list[str]] = {}
    for name, titles in rows:
        captions.setdefault(name, []).extend(titles)
    return captioned(spec, file, captions)


def _json_rows(file: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = parse_json(line.encode(), f"line {number} of {file}", DataError, ADVICE)
            check(row, ROW, f"line {number} of {file}", DataError, ADVICE)
            yield row["filepath"], [row["title"]] if isinstance(row["title"], str) else row["title"]


def _table_rows(file: Path, text: str, separator: str) -> Iterable[tuple[str, list[str]]]:
    reader = csv.DictReader(text.splitlines(), delimiter=separator)
    try:
        rows = [(row.get("filepath"), row.get("title")) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file} is not a table ({reason_of(error)}); {ADVICE}.") from None
    for number, (name, title) in enumerate(rows, 1):
        if not name or title is None:
            columns = ", ".join(str(field) for field in reader.fieldnames or ())[:200]
            raise DataError(
                f"Row {number} of {file} has the columns ({columns}), expected filepath and title; {ADVICE}."
            )
    return [(str(name), [str(title)]) for name, title in rows]


CAPTIONS = Reader(
    "captions:FILE",
    "CSV, TSV or JSON lines with filepath and title, pictures beside it",
    read_caption_table,
    names_pictures=True,
)
