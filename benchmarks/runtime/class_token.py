"""Time of an image tower whose class token has a range of its own, beside the same with one range for all rows.

    python -m benchmarks.runtime.class_token --threads 2

ViT-B/32 in full size with random weights at W4A4, in both runtimes; float32 and both forms in one process, in turn.
Ratios are those of a round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import d4c
from benchmarks.common import records
from benchmarks.common.arguments import argument_parser, integers
from benchmarks.common.rows import Row, write_report
from benchmarks.common.tables import conditions, table
from benchmarks.runtime.building import PACKAGES
from benchmarks.runtime.candidates import OPENVINO, ORT, Array, Tower, float_graph, in_onnxruntime, in_openvino
from benchmarks.runtime.speed import OtherLoad, full_size, interleaved, quick_ranges, ratio, speed_inputs
from benchmarks.runtime.table import FLOAT
from d4c.deployment.onnx.tower_graphs import image_graph
from d4c.runtime.processor import saturates

TOWER, SCHEME = "ViT-B/32 image", "W4A4"
FORMS = {FLOAT: None, "one range": False, "class token apart": True}


def graph(wide: bool | None, tower: Tower) -> Path:
    """The tower in a form, as d4c exports it."""
    if wide is None:
        return float_graph(tower)
    path = tower.folder / f"{wide}.onnx"
    if not path.exists():
        settings: Row = {"reconstruction": "none", "towers": ("image",), "ranges": tower.ranges}
        quantized = d4c.quantize(tower.clip, tower.calibration, SCHEME, wide_class_token=wide, **settings)
        path.write_bytes(image_graph(quantized).model(d4c.__version__).SerializeToString())
    return path


def measure(tower: Tower, batch: int, rounds: int) -> list[Row]:
    """A row for each runtime and form."""
    _, pixels = speed_inputs(tower, batch)
    runs: dict[tuple[str, str], Callable[[], Array]] = {}
    for form, wide in FORMS.items():
        # As `d4c.load_quantized` opens a file.
        convolutions = wide is not None and saturates("openvino")
        runs[ORT, form] = partial(in_onnxruntime(partial(graph, wide), tower).run, pixels)
        runs[OPENVINO, form] = partial(in_openvino(partial(graph, wide), tower, convolutions=convolutions).run, pixels)
    for run in runs.values():
        run()
    seconds = interleaved(runs, rounds)
    return [
        {"runtime": runtime, "form": form, "batch": batch, "to_float": ratio(times, seconds[runtime, FLOAT])}
        | {"to_one_range": ratio(times, seconds[runtime, "one range"])}
        for (runtime, form), times in seconds.items()
        if form != FLOAT
    ]


def page(report: Row) -> str:
    """A line for each runtime, batch and form."""
    body = [
        [row["runtime"], str(row["batch"]), row["form"]]
        + [f"{row[key]['median']:.2f} ({row[key]['lowest']:.2f} to {row[key]['highest']:.2f})" for key in KEYS]
        for row in sorted(report["rows"], key=lambda row: (row["runtime"], row["batch"]))
    ]
    setup = report["setup"]
    lines = [
        "# A class token with a range of its own: time",
        "",
        f"{TOWER} with random weights, {SCHEME}: shares of time, median over rounds, and the lowest and highest round.",
        "",
        *table(["runtime", "batch", "inputs", "of float32", "of one range"], body, texts=3),
        f"{setup['date']}, {setup['threads']} threads, {setup['rounds']} rounds, {100 * setup['other_load']:.0f} % of "
        f"the processors taken by other processes, {conditions(setup)}, instructions "
        f"{', '.join(setup['instructions'])}.",
    ]
    return "\n".join(lines) + "\n"


KEYS = ("to_float", "to_one_range")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=integers, default=[1, 32], help="such as 1,32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "class_token.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, quick_ranges():
        tower = full_size(TOWER, Path(folder), args.threads)
        load, rows = OtherLoad(), list[Row]()
        for batch in args.batches:
            rows += measure(tower, batch, args.rounds)
        share = load.share()
    setup = records.setup("cpu", *PACKAGES) | {"instructions": records.instructions(), "other_load": share}
    setup |= {"command": records.command("runtime.class_token"), "threads": args.threads, "rounds": args.rounds}
    write_report(args.out, {"setup": setup, "rows": rows}, page)


if __name__ == "__main__":
    main()
