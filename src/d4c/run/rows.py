"""What a run ends with: the rows of its table, and the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4c.errors import ArtifactError
from d4c.evaluation.metrics.record import Metrics
from d4c.reading.json_file import read_json
from d4c.reading.schema import List, Maybe, Record, Text, Whole, check
from d4c.storage.manifest import ADVICE

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

CONFIG, REPORT = "config.json", "report.html"

ROWS = Record(
    {"rows": List(Record({"name": Text(), "scheme": Maybe(Text()), "metrics": Record(), "bytes": Whole(0, 1 << 62)}))}
)
"""What the metrics.json of a run's evaluation holds."""


@dataclass(frozen=True)
class Row:
    """One line of the final table; `scheme` is None for the float model, `size` in bytes."""

    name: str
    scheme: str | None
    metrics: Metrics
    size: int

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "scheme": self.scheme, "bytes": self.size, **self.metrics.to_dict()}


@dataclass(frozen=True)
class RunResult:
    """What a run ends with: the table, and the seconds and the versions that made each step."""

    folder: Path
    rows: list[Row]
    seconds: dict[str, float]
    versions: dict[str, dict[str, str | None]]

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        return {"seconds": self.seconds, "versions": self.versions, "rows": rows}


def read_rows(file: Path) -> list[Row]:
    """Read the table that a run ended with; raises D4CError if it is not what a run writes."""
    saved = read_json(file, ArtifactError, ADVICE)
    check(saved, ROWS, str(file), ArtifactError, ADVICE)
    return [Row(row["name"], row["scheme"], Metrics.from_dict(row["metrics"]), row["bytes"]) for row in saved["rows"]]


def float_size(clip: CLIP, whole_table: bool = False) -> int:
    """Bytes of a CLIP in float32; rows of its token table that are all zero count with `whole_table` alone.

    Artifacts leave them out where the table is quantized.
    """
    table = clip.text.token_embedding.weight
    unused = 0 if whole_table else int((~table.any(1)).sum()) * table.shape[1]
    return 4 * (sum(p.numel() for p in clip.parameters()) - unused)
