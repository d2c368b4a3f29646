"""The table from the report that `benchmarks.fuzz.measure` wrote.

python -m benchmarks.fuzz.table benchmarks/fuzz/results/fuzz.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import report_command, table


def page(report: Row) -> str:
    rows, setup = report["rows"], report["setup"]
    body = [
        [row["target"], f"{row['inputs']:,}", f"{row['refused']:,}", str(sum(row["findings"].values()))] for row in rows
    ]
    body.append(
        [
            "all",
            f"{sum(row['inputs'] for row in rows):,}",
            f"{sum(row['refused'] for row in rows):,}",
            str(sum(sum(row["findings"].values()) for row in rows)),
        ]
    )
    minutes = sum(row["seconds"] for row in rows) / 60
    return "\n".join(
        [
            "# Attacks on the readers",
            "",
            "Changed files and settings by reader: how many were tried, how many of them ended in d4c's own error, and "
            "how many in anything else (another exception, more than 5 seconds or 1 GiB, a message that is not one "
            f"printable line). The others were read. One process, {minutes:.0f} minutes in equal parts, inputs from "
            f"number {report['first']:,} on; {setup['device']}, Python {setup['versions']['python']}, "
            f"torch {setup['versions']['torch']}, commit {setup['commit']}.",
            "",
            *table(["reader", "inputs", "refused", "findings"], body, texts=1),
        ]
    )


if __name__ == "__main__":
    report_command(__doc__, page)
