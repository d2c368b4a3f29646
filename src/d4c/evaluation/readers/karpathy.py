"""Reads Karpathy's JSON of COCO, Flickr30k and Flickr8k: pictures with five captions each, divided into splits."""

from __future__ import annotations

from pathlib import Path

from d4c.errors import DataError
from d4c.evaluation.dataset import CaptionedDataset
from d4c.evaluation.readers.captions import captioned
from d4c.evaluation.readers.reader import Reader
from d4c.reading.json_file import read_json
from d4c.reading.schema import AnyText, List, Record, Text, check

SPLIT = "test"
LONGEST = 512 << 20
"""Bytes of a file; that of COCO has 144 MB."""
CONTENT = Record(
    {
        "images": List(
            Record(
                {"filename": AnyText(1000), "split": Text(), "sentences": List(Record({"raw": AnyText()}), 1)},
                {"filepath": AnyText(1000)},
            ),
            1,
        )
    }
)


def read_karpathy(spec: str, file: Path) -> CaptionedDataset:
    """Read the pictures of the test split, in the order of the file.

    Args:
        spec: Name of the dataset.
        file: dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json; pictures lie beside it, those of COCO
            in val2014.

    Raises:
        DataError: The file has another form, or the pictures are not there.
    """
    data = read_json(file, DataError, "download it again", LONGEST)
    check(data, CONTENT, str(file), DataError, "download it again")
    captions = {
        "/".join(filter(None, (image.get("filepath", ""), image["filename"]))): [s["raw"] for s in image["sentences"]]
        for image in data["images"]
        if image["split"] == SPLIT
    }
    return captioned(spec, file, captions)


KARPATHY = Reader(
    "karpathy:FILE",
    "the test split of Karpathy's JSON of COCO or Flickr, pictures beside it",
    read_karpathy,
    names_pictures=True,
)
