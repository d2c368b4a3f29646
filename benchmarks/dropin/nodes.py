"""What a text tower spends its time on in ONNX Runtime at batch 1, by kind of node, for each form of the model.

    python -m benchmarks.dropin.nodes --cache FOLDER

Graphs are those of `benchmarks.dropin.measure` for plain ONNX Runtime; with `--cache` they are kept for both. One
thread, one prompt; a node's time is its fastest of all runs, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import onnxruntime

from benchmarks.common import records
from benchmarks.common.arguments import argument_parser
from benchmarks.common.models import make_clip
from benchmarks.common.rows import Row, write_report
from benchmarks.common.tables import conditions, table
from benchmarks.dropin.layouts import artifacts, layouts
from benchmarks.dropin.measure import FEW, SPEED_MODEL
from d4c.models.inputs.tokenizer import token_ids

TOOL = "graphs"
PROMPT = "a photo of a cat"
PRODUCTS = ("MatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
KINDS = {
    "products": PRODUCTS,
    "rounding of activations": ("QuantizeLinear",),
    "biases, sums": ("Add", "Sub", "Mul", "ReduceSum"),
    "LayerNorm, GELU, Softmax": ("LayerNormalization", "QuickGelu", "Softmax"),
}
REST = "shapes and the rest"


def measure(graph: Path, runs: int) -> Row:
    """Number and microseconds of the nodes of each kind."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.intra_op_num_threads = True, 1
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        tokens = token_ids([PROMPT])
        feeds = {session.get_inputs()[0].name: tokens[:, : int((tokens != 0).sum())]}
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    fastest: dict[tuple[str, str], int] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            node = (event["name"], event["args"]["op_name"])
            fastest[node] = min(event["dur"], fastest.get(node, event["dur"]))
    counts, times = Counter[str](), Counter[str]()
    for (_, operator), microseconds in fastest.items():
        kind = next((kind for kind, operators in KINDS.items() if operator in operators), REST)
        counts[kind] += 1
        times[kind] += microseconds
    return {kind: {"nodes": counts[kind], "microseconds": times[kind]} for kind in (*KINDS, REST)}


def page(report: Row) -> str:
    """Nodes and microseconds of each form and kind, and their sums."""
    kinds = [*KINDS, REST]
    body = []
    for form, row in report["rows"].items():
        sums = [sum(row[kind][what] for kind in kinds) for what in ("nodes", "microseconds")]
        cells = [f"{row[kind]['microseconds']} ({row[kind]['nodes']})" for kind in kinds]
        body.append([form, *cells, f"{sums[1]} ({sums[0]})"])
    lines = [
        "# A prompt in ONNX Runtime, by kind of node",
        "",
        f"Text tower of ViT-B/32 with random weights, {PROMPT!r}, one thread: microseconds, and in parentheses the "
        "number of nodes.",
        "",
        *table(["form", *kinds, "all"], body),
        f"{conditions(report['setup'])}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="folder that keeps the quantized models and their exports")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "nodes.json")
    args = parser.parse_args()
    clip = make_clip(SPEED_MODEL, "cpu", 0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.cache or Path(scratch)) / f"{SPEED_MODEL}-speed"
        folders = layouts(TOOL, clip, artifacts(clip, folder, FEW), folder / TOOL)
        rows = {form: measure(path / "text.onnx", args.runs) for form, path in folders.items()}
    setup = records.setup("cpu", "onnxruntime") | {"instructions": records.instructions()}
    setup |= {"command": records.command("dropin.nodes"), "runs": args.runs}
    write_report(args.out, {"setup": setup, "rows": rows}, page)


if __name__ == "__main__":
    main()
