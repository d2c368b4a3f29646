"""Write the embedded emoji pack as 496 PNG files, so that there is a folder to search.

python examples/emoji_pictures.py FOLDER
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from d4c.evaluation.load_dataset import load_dataset


def main(folder: Path) -> None:
    """One file for each emoji, named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset("demo")
    for row, label in enumerate(dataset.labels):
        name = re.sub(r"[^a-z0-9]+", "-", dataset.classes[label].lower()).strip("-")
        dataset.picture(row).save(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
