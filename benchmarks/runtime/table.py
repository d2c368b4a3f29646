"""Tables from the report that `benchmarks.runtime.measure` wrote.

python -m benchmarks.runtime.table benchmarks/runtime/results/runtime.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import conditions, line, report_command

FLOAT = "float32"
Key = tuple[str, str]


def page(report: Row) -> str:
    """A section for each tower: speed at each batch size, size, and fidelity of the trained model in its place."""
    towers = list(dict.fromkeys(cell.rpartition(", ")[0] for cell in report))
    lines = ["# Speed, size and fidelity of exported towers beside peers", ""]
    lines += [
        "Time as a share of float32 in the same runtime (lowest to highest over rounds), and of float32 in ONNX "
        "Runtime; lower is better. RAM: MB of a process beyond the runtime, the most while loading and what is held "
        "after one picture or prompt. Fidelity: cosine with float, images with the same class as with float, top-1 on "
        "2,000 images of Tiny ImageNet. `benchmarks/runtime/measure.py` says how it is measured.",
    ]
    for tower in towers:
        cells = {cell.rpartition(", ")[2]: figures for cell, figures in report.items() if cell.startswith(f"{tower}, ")}
        lines += ["", f"## {tower} tower", "", *_conditions(cells), "", *_table(cells), "", *_behind(cells)]
    return "\n".join(lines) + "\n"


def _conditions(cells: Row) -> list[str]:
    lines = []
    for name, cell in cells.items():
        setup = cell["setup"]
        units = ", ".join(setup["instructions"])
        how = f"{setup['date']}, {setup['threads']} threads, {conditions(setup)}, instructions {units}"
        if "rounds" in setup:
            other = f"{100 * setup['other_load']:.0f} % of the processors taken by other processes"
            lines.append(f"- {name}: {setup['rounds']} rounds, {other}; {how}.")
        elif name == "memory":
            lines.append(f"- memory: {how}.")
        else:
            lines.append(f"- {name}: {setup['model']}, calibrated on dead leaves; {how}.")
    return lines


def _table(cells: Row) -> list[str]:
    timed = [name for name in cells if name not in ("fidelity", "memory")]
    by_key = {name: _by_key(cell["rows"]) for name, cell in cells.items()}
    reasons: dict[Key, str] = {}
    for cell in cells.values():
        reasons |= {(row["runtime"], row["candidate"]): row["reason"] for row in cell["failed"]}
    keys = list(dict.fromkeys(key for rows in by_key.values() for key in rows))
    runtimes = list(dict.fromkeys(runtime for runtime, _ in keys))
    keys.sort(key=lambda key: runtimes.index(key[0]))
    heads = ["runtime", "candidate", "MB"]
    heads += [f"{name}: time / own float32" for name in timed] + [f"{name}: / ONNX Runtime float32" for name in timed]
    heads += ["RAM: load", "RAM: use"] if "memory" in cells else []
    heads += ["model MB", "cosine", "same class %", "top-1 %"] if "fidelity" in cells else []
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for key in keys:
        rows = [by_key[name].get(key) for name in timed]
        size = next((f"{row['bytes'] / 1e6:.1f}" for row in rows if row), "")
        cells_of_key = [*key, size, *(_spread(row["to_own_float"]) if row else "" for row in rows)]
        cells_of_key += [f"{row['to_onnxruntime_float']['median']:.2f}" if row else "" for row in rows]
        cells_of_key += _memory(by_key["memory"].get(key)) if "memory" in cells else []
        lines.append(cells_of_key + (_fidelity(by_key["fidelity"].get(key)) if "fidelity" in cells else []))
    table = [line(cells) for cells in lines]
    return table + [f"\n{runtime}, {name} could not be run: {reason}" for (runtime, name), reason in reasons.items()]


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def _memory(row: Row | None) -> list[str]:
    return [f"{row['memory'][what]:.0f}" if row else "" for what in ("load", "use")]


def _fidelity(row: Row | None) -> list[str]:
    if row is None:
        return ["", "", "", ""]
    metrics = row["metrics"]
    close = metrics["fidelity"]
    same, top = close["same_class"]["value"], metrics["top1"]["value"]
    return [f"{row['bytes'] / 1e6:.1f}", f"{_cosine(row):.4f}", f"{same:.2f}", f"{top:.2f}"]


def _cosine(row: Row) -> float:
    """Of the side that was replaced; the other one is the float model's and has cosine 1."""
    close = row["metrics"]["fidelity"]
    return min(close["cosine"], close["text_cosine"])


def _behind(cells: Row) -> list[str]:
    """Where a peer is smaller, faster and closer to float than a row of d4c, all at once."""
    if "fidelity" not in cells:
        return []
    close = {key: _cosine(row) for key, row in _by_key(cells["fidelity"]["rows"]).items()}
    lines = []
    for name, cell in cells.items():
        if name in ("fidelity", "memory"):
            continue
        rows = {key: row for key, row in _by_key(cell["rows"]).items() if key in close}
        peers = [key for key in rows if not key[1].startswith(("d4c", FLOAT))]
        for ours in (key for key in rows if key[1].startswith("d4c")):
            ahead = [", ".join(peer) for peer in peers if _wins(rows, close, peer, ours)]
            if ahead:
                lines.append(f"- {name}, {ours[1]} in {ours[0]}: {'; '.join(ahead)}")
    if not lines:
        return ["No peer is smaller, faster and closer to float at once than any row of d4c."]
    return ["Peers that are smaller, faster and closer to float at once than a row of d4c:", "", *lines]


def _wins(rows: dict[Key, Row], close: dict[Key, float], peer: Key, ours: Key) -> bool:
    time = {key: rows[key]["to_onnxruntime_float"]["median"] for key in (peer, ours)}
    smaller, faster = rows[peer]["bytes"] <= rows[ours]["bytes"], time[peer] <= time[ours]
    return smaller and faster and close[peer] >= close[ours]


def _by_key(rows: list[Row]) -> dict[Key, Row]:
    return {(row["runtime"], row["candidate"]): row for row in rows}


if __name__ == "__main__":
    report_command(__doc__, page)
