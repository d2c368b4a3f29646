"""The table from the report that `benchmarks.serve.measure` wrote.

python -m benchmarks.serve.table benchmarks/serve/results/serve.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import conditions, report_command, table


def page(report: Row) -> str:
    """Ratios of the two servers, and what each of them did."""
    servers = {server["name"]: server for server in report["servers"]}
    float32 = servers["float32"]
    body = [
        [
            name,
            f"{server['requests']:,}",
            str(server["lost"]),
            *(["1", "1"] if server is float32 else [_range(report["rate"]), _range(report["p95"])]),
            f"{server['megabytes'] / float32['megabytes']:.2f}",
            f"{server['growth']:.3f}",
        ]
        for name, server in servers.items()
    ]
    names = ["server", "requests", "lost", "rate / float32", "p95 / float32", "memory / float32", "memory end / start"]
    return "\n".join(
        [
            "# d4c serve under load",
            "",
            f"{report['model']}, `/embed/image`, {report['clients']} clients; medians over turns, lowest and highest. "
            f"{conditions(report['setup'])}.",
            "",
            *table(names, body),
        ]
    )


def _range(ratio: Row) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


if __name__ == "__main__":
    report_command(__doc__, page)
