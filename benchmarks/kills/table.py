"""The table from the report that `benchmarks.kills.measure` wrote.

python -m benchmarks.kills.table benchmarks/kills/results/kills.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import report_command, table


def page(report: Row) -> str:
    rows, setup = report["rows"], report["setup"]
    body = [
        [row["job"], f"{row['kills']:,}", f"{row['ends']:,}", str(len(row["findings"]))]
        for row in [*rows, {"job": "all", **_sums(rows)}]
    ]
    return "\n".join(
        [
            "# Jobs that were killed",
            "",
            "Whole jobs on a small random CLIP, ended by SIGKILL at moments drawn evenly from the time that they take, "
            "up to six times in a row, and started again until they came to their end. A finding is a job that fails "
            "when it is started again, a result that is not byte by byte that of a job which nobody killed (times "
            f"aside), or anything left beside it. {setup['device']}, Python {setup['versions']['python']}, "
            f"torch {setup['versions']['torch']}, commit {setup['commit']}.",
            "",
            *table(["job", "kills", "results compared", "findings"], body, texts=1),
        ]
    )


def _sums(rows: list[Row]) -> Row:
    counted = {name: sum(row[name] for row in rows) for name in ("kills", "ends")}
    return {**counted, "findings": [finding for row in rows for finding in row["findings"]]}


if __name__ == "__main__":
    report_command(__doc__, page)
