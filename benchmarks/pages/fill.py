"""The tables of README.md and of the pages, made from the committed results.

    python -m benchmarks.pages.fill

A table stands between the comments `<!-- table: NAME -->` and `<!-- end -->`. All of them are written anew; a test
fails while one differs from the results.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.pages.accuracy import calibration, demo, forms, reconstructions, siglip, text_tower
from benchmarks.pages.names import datasets, methods, zoo
from benchmarks.pages.speed import (
    dropin,
    dropin_small,
    gpu_runtime,
    peers,
    processors,
    quantization_time,
    siglip_time,
    synthesis_time,
)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    "peers": peers,
    "processors": processors,
    "dropin": dropin,
    "dropin_small": dropin_small,
    "calibration": calibration,
    "reconstructions": reconstructions,
    "demo": demo,
    "forms": forms,
    "siglip": siglip,
    "synthesis_time": synthesis_time,
    "quantization_time": quantization_time,
    "siglip_time": siglip_time,
    "gpu_runtime": gpu_runtime,
    "text_tower": text_tower,
    "datasets": datasets,
    "methods": methods,
    "zoo": zoo,
}


def filled(text: str) -> str:
    """The text with every table as the results have it today."""
    return TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
