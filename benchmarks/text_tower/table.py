"""Tables from the report that `benchmarks.text_tower.measure` wrote.

python -m benchmarks.text_tower.table benchmarks/text_tower/results/text_tower.json
python -m benchmarks.text_tower.table benchmarks/text_tower/results/spikes.json
"""

from __future__ import annotations

from statistics import mean

from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, RECONSTRUCTIONS, conditions, report_command, spread, table

PARTS = {
    "": "block",
    "norm1": "into q, k, v",
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "norm2": "into MLP",
    "mlp.act": "in MLP",
}
SCHEMES = ("W4A8", "W6A6", "W4A4")
FORMS = {"plain": "demo-vit", "spiked": "with spikes"}
SPIKE_SCHEMES = ("W8A8", "W6A6", "W4A8")


def page(report: Row) -> str:
    lines = ["# The text tower at low bits", "", "Measured by `benchmarks/text_tower/measure.py`, which says how.", ""]
    if "accuracy" in report:
        lines += _accuracy(report["accuracy"])
    if "positions" in report:
        lines += _positions(report["positions"])
    if "spikes" in report:
        lines += _spikes(report["spikes"])
    return "\n".join(lines)


def _where(setup: Row) -> str:
    return f"{setup['date']}, {conditions(setup)}, threads: {setup['threads']}; {setup['prompts']} prompts."


def _accuracy(part: Row) -> list[str]:
    lines = ["## MLPs at the scheme's width beside the 8-bit exception", "", _where(part["setup"]), ""]
    lines += [
        "Only the text tower is quantized. Top-1 %, mean (lowest to highest) over seeds, each with other calibration "
        "prompts; `bits` is the mean width of the text tower's weights (token table and projection hold 8); `cost` is "
        "what giving up the exception costs, in points.",
        "",
    ]
    rows = part["rows"]
    for model in dict.fromkeys(row["model"] for row in rows):
        same_model = [row for row in rows if row["model"] == model]
        data = list(same_model[0]["results"])
        floats = ", ".join(f"{DATASETS[d]} {same_model[0]['results'][d]['float_top1']:.2f}" for d in data)
        counts = ", ".join(f"{same_model[0]['results'][d]['count']:,}" for d in data)
        lines += [f"### {model}: float {floats} ({counts} images)", ""]
        heads = ["scheme, reconstruction", "seeds", "bits: scheme's width", "bits: exception"]
        for d in data:
            heads += [f"{DATASETS[d]}: scheme's width", "exception", "cost"]
        body = []
        pairs = dict.fromkeys((row["scheme"], row["reconstruction"]) for row in same_model)
        for scheme, kind in sorted(pairs, key=lambda pair: (SCHEMES.index(pair[0]), pair[1] != "none")):
            chosen = [row for row in same_model if (row["scheme"], row["reconstruction"]) == (scheme, kind)]
            seeds = {mlp: {row["seed"] for row in chosen if row["mlp"] == mlp} for mlp in ("own", "W8A8")}
            both = [row for row in chosen if row["seed"] in seeds["own"] & seeds["W8A8"]]
            if both:
                body.append(_pair(f"{scheme}, {RECONSTRUCTIONS[kind]}", both, data))
        lines += table(heads, body)
    return lines


def _pair(name: str, rows: list[Row], data: list[str]) -> list[str]:
    """One line: the same cells with and without the exception."""
    own, exception = ([row for row in rows if row["mlp"] == mlp] for mlp in ("own", "W8A8"))
    line = [name, str(len(own)), f"{own[0]['bits']:.2f}", f"{exception[0]['bits']:.2f}"]
    for d in data:
        values, others = ([row["results"][d]["top1"]["value"] for row in side] for side in (own, exception))
        line += [spread(values), spread(others), f"{mean(others) - mean(values):+.2f}"]
    return line


def _positions(part: Row) -> list[str]:
    lines = ["## Positions after end-of-text", "", _where(part["setup"]), ""]
    lines += [
        f"Time of the text tower in PyTorch without these positions as a share of the time with all 77: median (lowest "
        f"to highest) of {part['setup']['rounds']} rounds. `difference`: the largest over prompts of the difference "
        "between the two embeddings, relative to their length. Other processes shared the machine; the two of a round "
        "run one after the other.",
        "",
    ]
    heads = ["model", "positions a prompt"]
    body = []
    for model, figures in part["models"].items():
        for kind in ("float", "W4A8"):
            row = figures[kind]
            batches = [name for name in row if name.startswith("batch")]
            line = [f"{model}, {kind}", f"{row['positions']:.1f}"]
            for name in batches:
                cell = row[name]
                line += [f"{cell['time_share']:.3f} ({cell['lowest']:.3f} to {cell['highest']:.3f})"]
                line += [f"{cell['largest_relative_difference']:.1e}"]
            body.append(line)
    for name in batches:
        heads += [f"{name}: time share", "difference"]
    lines += table(heads, body)
    lines += ["## Largest activations at begin-of-text beside all other positions", ""]
    lines += [
        "Largest absolute value at begin-of-text / at any other position up to end-of-text, in float; **bold** where "
        "begin-of-text is larger and so sets the range of a quantizer that reads the tensor. `block`: the residual "
        "stream after the block, which no quantizer reads. Every position's figure stands in `text_tower.json`.",
        "",
    ]
    for model, figures in part["models"].items():
        lines += [f"### {model}", "", *_peaks(figures["peaks"])]
    return lines


def _peaks(peaks: dict[str, list[float]]) -> list[str]:
    count = 1 + max(int(name.split(".")[2]) for name in peaks)
    body = []
    for i in range(count):
        line = [f"block {i}"]
        for part in PARTS:
            peak = peaks[f"text.blocks.{i}" + (f".{part}" if part else "")]
            first, others = peak[0], max(peak[1:])
            shown = f"{first:.1f} / {others:.1f}"
            line.append(f"**{shown}**" if first > others else shown)
        body.append(line)
    return table(["", *PARTS.values()], body)


def _spikes(part: Row) -> list[str]:
    setup, rows = part["setup"], part["rows"]
    lines = ["## Spikes at begin-of-text: published placements and ours", "", _where(setup), ""]
    lines += [f"Commit {setup['commit']}.", ""]
    lines += [
        "Only the text tower of demo-vit is quantized, ranges only; `with spikes`: rewritten so that its activations "
        "are like those of a real text tower (`spiked.py`). `error`: 1000 × (1 − cosine) between the embeddings of 256 "
        "other prompts and those of the same float model; `same class`: of 496 pictures, the share (%) that the float "
        "model puts into the same class; top-1 in %. Mean (lowest to highest) over seeds. `placements.py` says what "
        "each placement is.",
        "",
    ]
    heads = ["scheme, placement", "seeds"]
    for form in FORMS.values():
        heads += [f"{form}: error", "same class", "top-1"]
    body = []
    for scheme, placement in dict.fromkeys((row["scheme"], row["placement"]) for row in rows):
        seeds = {row["seed"] for row in rows if (row["scheme"], row["placement"]) == (scheme, placement)}
        line = [f"{scheme}, {placement}", str(len(seeds))]
        for form in FORMS:
            cells = [row for row in rows if (row["scheme"], row["placement"], row["form"]) == (scheme, placement, form)]
            line.append(spread([1000 * (1 - cell["cosine"]) for cell in cells], 1))
            line += [spread([cell[name] for cell in cells], 1) for name in ("same_class", "top1")]
        body.append(line)
    return lines + table(heads, body)


if __name__ == "__main__":
    report_command(__doc__, page)
