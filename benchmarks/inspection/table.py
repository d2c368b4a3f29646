"""Two tables that docs/synthesis.md takes in, from the report that `benchmarks.inspection.measure` wrote.

python -m benchmarks.inspection.table benchmarks/inspection/results/inspection.json
"""

from __future__ import annotations

from benchmarks.common import tables
from benchmarks.common.rows import Row

TERMS = ("pgsi", "pgsi+scg", "pgsi+pae", "d4c")
"""Methods of which each adds a term of the published one."""
ORDER = ("noise", "pink", "leaves", "bns", "pse", *TERMS, "real")

Columns = dict[str, tuple[str, float, str]]
"""Key of a figure, factor and format, by title."""
PROMPTS: Columns = {
    "nearest prompts": ("nearest_prompts", 1, ".0f"),
    "recognized, %": ("recognized", 100, ".0f"),
    "cosine with nearest prompt": ("nearest_cosine", 1, ".2f"),
    "KL from uniform, nats": ("kl", 1, ".2f"),
    "KL of the set's mean": ("kl_of_mean", 1, ".2f"),
    "1-NN tells it from real, %": ("nearest_neighbor", 100, ".0f"),
}
STRUCTURE: Columns = {
    "contrast": ("fg_bg_contrast", 1, ".3f"),
    "variance": ("fg_bg_variance", 1, ".3f"),
    "entropy, nats": ("entropy", 1, ".2f"),
    "spectral slope": ("slope", 1, ".1f"),
    "range width": ("width", 1, ".2f"),
    "range overlap": ("overlap", 1, ".2f"),
    "overlap at the worst layer": ("worst_overlap", 1, ".2f"),
}


def method_table(summary: Row, columns: Columns) -> list[str]:
    body = []
    for name in (name for name in ORDER if name in summary):
        figures = [(summary[name][key], factor, form) for key, factor, form in columns.values()]
        body.append([name, *("" if value is None else f"{factor * value:{form}}" for value, factor, form in figures)])
    return tables.table(["images", *columns], body)


def page(report: Row) -> str:
    """Two parts that a page can take in by their names, each with a table for each model."""
    lines = ["<!-- --8<-- [start:prompts] -->"]
    for model, figures in report.items():
        chance = figures["summary"]["real"]["expected_prompts"]
        title = f"**{model}**, {figures['images']} images a set; {chance:.0f} nearest prompts are expected by chance:"
        lines += [title, "", *method_table(figures["summary"], PROMPTS)]
    lines += ["<!-- --8<-- [end:prompts] -->", "<!-- --8<-- [start:structure] -->"]
    for model, figures in report.items():
        title = f"**{model}**, {figures['patches']} patches an image; ranges relative to real images, median layer:"
        lines += [title, "", *method_table(figures["summary"], STRUCTURE)]
    return "\n".join([*lines, "<!-- --8<-- [end:structure] -->", ""])


if __name__ == "__main__":
    tables.report_command(__doc__, page)
