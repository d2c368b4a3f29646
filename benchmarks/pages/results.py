"""Reads committed results, and writes figures and tables as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent.parent


def read_result(topic: str, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((BENCHMARKS / topic / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return result


def read_lines(topic: str, name: str) -> list[dict[str, Any]]:
    lines = (BENCHMARKS / topic / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def quantization_rows(part: str) -> list[dict[str, Any]]:
    return [row for row in read_lines("quantization", "quantization") if row["part"] == part]


def find(rows: Sequence[dict[str, Any]], runtime: str, candidate: str) -> dict[str, Any]:
    return next(row for row in rows if (row["runtime"], row["candidate"]) == (runtime, candidate))


def interval(value: dict[str, float]) -> str:
    return f"{value['value']:.1f} ({value['low']:.0f} to {value['high']:.0f})"


def plain(text: str) -> str:
    """Text whose angle brackets and asterisks mean themselves."""
    return text.replace("<", "&lt;").replace("*", r"\*")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    figures = [all(row[i][:1].isdigit() or not row[i] for row in rows) for i in range(len(heads))]
    lines = [heads, ["---:" if right else "---" for right in figures], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
