"""The table from the report that `benchmarks.picture_index.measure` wrote.

python -m benchmarks.picture_index.table benchmarks/picture_index/results/picture_index.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import conditions, report_command, table


def page(report: Row) -> str:
    """What the index finds and how long it takes, by the number of matches that are asked for."""
    body = [
        [str(row["top"]), f"{row['recall']:.3f}", f"{row['ratio']:.2f}", f"{1000 * row['exact_seconds']:.0f}"]
        for row in report["rows"]
    ]
    cosines = report["cosines"]
    return "\n".join(
        [
            "# The index of large galleries",
            "",
            f"{report['pictures']:,} synthetic embeddings of width {report['width']} (cosine "
            f"{cosines['between_pictures']:.2f} to each other, {cosines['of_queries']:.2f} to queries), "
            f"{report['queries']} queries. The index took {report['build_cpu_seconds']:.0f} seconds of processor time "
            f"to make and takes {report['bytes_a_picture']:.0f} bytes a picture. {conditions(report['setup'])}.",
            "",
            *table(["matches", "share found", "time / exact", "exact: ms"], body, texts=0),
        ]
    )


if __name__ == "__main__":
    report_command(__doc__, page)
